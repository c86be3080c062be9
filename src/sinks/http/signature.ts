/**
 * Signatures of requests, as Standard Webhooks has them: HMAC-SHA-256 over `id.timestamp.body` in the headers webhook-id,
 * webhook-timestamp (seconds) and webhook-signature ("v1,base64", one for each secret, a space between them). With two
 * secrets a receiver may change from one to the other at any time.
 */
import { createHmac } from 'node:crypto'

const ENCODED = 'whsec_'

/** The bytes of a secret as it is configured: "whsec_" and base64, or any text. */
export function secretBytes(secret: string): Buffer {
  if (secret.startsWith(ENCODED)) return Buffer.from(secret.slice(ENCODED.length), 'base64')
  return Buffer.from(secret)
}

export interface Signed {
  readonly id: string
  readonly seconds: number
  readonly body: Buffer
}
/** The value of webhook-signature. */
export function signatureOf(secrets: readonly Buffer[], { id, seconds, body }: Signed): string {
  return secrets
    .map((secret) => {
      const mac = createHmac('sha256', secret).update(`${id}.${seconds}.`).update(body)
      return `v1,${mac.digest('base64')}`
    })
    .join(' ')
}
