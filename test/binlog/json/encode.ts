/** A small encoder of binary JSON for tests: every value in the form asked for, whatever its size. */

/** A document; objects and arrays in the large form (4-byte offsets) if `large`. Keys are sorted as MySQL sorts them. */
export function encodeJson(value: unknown, large: boolean): Buffer {
  const { type, data } = encode(value, large)
  return Buffer.concat([Buffer.of(type), data])
}

interface Encoded {
  readonly type: number
  readonly data: Buffer
}

function encode(value: unknown, large: boolean): Encoded {
  if (value === null || typeof value === 'boolean')
    return { type: 4, data: Buffer.of(value === null ? 0 : value ? 1 : 2) }
  if (typeof value === 'number') return encodeNumber(value)
  if (typeof value === 'string') {
    const text = Buffer.from(value.toWellFormed())
    return { type: 12, data: Buffer.concat([packed(text.length), text]) }
  }
  if (Array.isArray(value)) {
    const values = value.map((v) => encode(v, large))
    return { type: large ? 3 : 2, data: container([], values, large) }
  }
  const entries = Object.entries(value as object)
    .map(([k, v]) => [Buffer.from(k.toWellFormed()), encode(v, large)] as const)
    .sort(([a], [b]) => a.length - b.length || a.compare(b))
  const keys = entries.map(([k]) => k)
  return {
    type: large ? 1 : 0,
    data: container(
      keys,
      entries.map(([, v]) => v),
      large,
    ),
  }
}

function encodeNumber(value: number): Encoded {
  const data = Buffer.alloc(8)
  if (Number.isInteger(value) && !Object.is(value, -0) && Math.abs(value) < 2 ** 32) {
    if (value >= -32_768 && value < 32_768) {
      data.writeInt16LE(value)
      return { type: 5, data: data.subarray(0, 2) }
    }
    if (value >= 0) {
      data.writeUInt32LE(value)
      return { type: 8, data: data.subarray(0, 4) }
    }
    if (value >= -(2 ** 31)) {
      data.writeInt32LE(value)
      return { type: 7, data: data.subarray(0, 4) }
    }
  }
  data.writeDoubleLE(value)
  return { type: 11, data }
}

function packed(length: number): Buffer {
  const bytes: number[] = []
  for (let n = length; ; n = Math.floor(n / 128)) {
    if (n < 128) return Buffer.from([...bytes, n])
    bytes.push((n % 128) | 0x80)
  }
}

function container(keys: Buffer[], values: Encoded[], large: boolean): Buffer {
  const wide = large ? 4 : 2
  const head = Buffer.alloc(2 * wide + keys.length * (wide + 2) + values.length * (wide + 1))
  const put = (at: number, v: number): void => void head.writeUIntLE(v, at, wide)
  const parts: Buffer[] = [head]
  let end = head.length
  const append = (part: Buffer): number => {
    parts.push(part)
    end += part.length
    return end - part.length
  }
  for (const [i, key] of keys.entries()) {
    const at = 2 * wide + i * (wide + 2)
    head.writeUInt16LE(key.length, at + wide)
    put(at, append(key))
  }
  for (const [i, { type, data }] of values.entries()) {
    const at = 2 * wide + keys.length * (wide + 2) + i * (wide + 1)
    head[at] = type
    if (type === 4 || type === 5 || (large && (type === 7 || type === 8))) data.copy(head, at + 1)
    else put(at + 1, append(data))
  }
  put(0, values.length)
  put(wide, end)
  return Buffer.concat(parts)
}
