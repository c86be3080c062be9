# Runs from the sources: Node strips the types, nothing is built. State is in /data, configuration in /etc/sluice.
FROM node:24-slim
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev && npm cache clean --force && mkdir /data && chown node:node /data
COPY bin bin
COPY src src
USER node
EXPOSE 11111
ENTRYPOINT ["node", "bin/sluice.js"]
CMD ["serve", "--config", "/etc/sluice/server.yaml"]
