/**
 * Asking the server, with the token that this tab keeps; and telling the page to be drawn anew.
 */
const API = '/api/v1'

/** Who asks; undefined: nobody yet. */
export const session = { me: undefined }
/** The page is drawn anew soon. */
export const redraw = () => document.dispatchEvent(new Event('redraw'))

export const authorization = () => sessionStorage.getItem('authorization') ?? ''
class Problem extends Error {
  constructor(status, message, problems) {
    super(message)
    this.status = status
    this.problems = problems // of a text that was sent, each with its line
  }
}
export async function ask(path, method = 'GET', body, more = {}) {
  const headers = { authorization: authorization(), ...more }
  if (method !== 'GET') headers['content-type'] = 'application/json'
  const request = { method, headers, credentials: 'omit' }
  if (body !== undefined) request.body = JSON.stringify(body)
  const response = await fetch(API + path, request)
  const json = await response.json()
  if (!response.ok) {
    const { code, message, problems } = json.error
    throw new Problem(response.status, `${code}: ${message}`, problems)
  }
  return json
}
export const at = (...parts) => parts.map((part) => `/${encodeURIComponent(part)}`).join('')

/** An answer that goes on. Throws what ask throws. */
export async function open(path, signal) {
  const response = await fetch(API + path, { headers: { authorization: authorization() }, signal })
  if (response.ok) return response.body.getReader()
  throw new Problem(response.status, (await response.json()).error.message)
}
