# Runs from the sources: Node strips the types, nothing is built. State is in /data, configuration in /etc/sluice.
FROM node:24-slim
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev && npm cache clean --force && mkdir /data && chown node:node /data
COPY bin bin
COPY src src
USER node
VOLUME /data
EXPOSE 11111 11112
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:11112/livez').then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "bin/sluice.js"]
CMD ["serve", "--config", "/etc/sluice/server.yaml"]
