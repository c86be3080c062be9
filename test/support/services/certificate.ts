/** A certificate for the servers of a test that speak TLS, made by openssl. */
import { join } from 'node:path'
import { findCommand, run } from './fetch.ts'

/** Paths of PEM files. */
export interface Certificate {
  readonly ca: string
  readonly certificate: string
  readonly key: string
}

/** A certificate for 127.0.0.1 in `dir`, signed by an authority of its own, both fresh. */
export async function certificate(dir: string): Promise<Certificate> {
  if (!findCommand('openssl')) throw new Error('TLS needs openssl, which is not on this machine')
  const file = (name: string): string => join(dir, name)
  const ca = file('ca.pem')
  const own = { ca, certificate: file('server.pem'), key: file('server.key') }
  const common = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30']
  const authority = ['-subj', '/CN=Sluice test authority', '-keyout', file('ca.key'), '-out', ca]
  await run('openssl', [...common, ...authority])
  const name = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1,DNS:localhost']
  const signed = ['-CA', ca, '-CAkey', file('ca.key'), '-keyout', own.key, '-out', own.certificate]
  await run('openssl', [...common, ...name, ...signed])
  return own
}
