/**
 * Character sets: which one a collation id belongs to, and how its bytes become UTF-8. The truth is the server's own
 * CONVERT(x USING utf8mb4), character by character, also where MySQL differs from what the rest of the world means by
 * the same name (its latin1 is cp1252 with the gaps filled, its sjis has a real backslash at 815F); a test compares
 * every sequence of every set with a real server. What has no Unicode character becomes "?", as in MySQL. Tables of
 * double-byte sets are built on first use from the platform's decoder and a list of differences. Pure.
 * Over 500 lines because the tables stand here; the code is half of it.
 */
import { SluiceError, assert } from '../errors.ts'
import { Out } from '../out.ts'
import type { TextForm, TextWriter } from '../change.ts'

export interface Charset {
  readonly name: string
  readonly maxBytes: number // of one character
  /** Writes bytes[at, end) as UTF-8. */
  readonly write: TextWriter
  /** What `write` does, where that has a name. */
  readonly form?: TextForm
  /** bytes[at, end) as a string. */
  readonly decode: (bytes: Buffer, at: number, end: number) => string
}

/** Collation id of binary strings: BINARY, VARBINARY and the BLOBs. */
export const BINARY = 63

/** Collation ids as MySQL 5.6 to 9.7 list them in information_schema.COLLATIONS. */
const collations: Readonly<Record<string, string>> = {
  armscii8: '32 64',
  ascii: '11 65',
  big5: '1 84',
  binary: '63',
  cp1250: '26 34 44 66 99',
  cp1251: '14 23 50-52',
  cp1256: '57 67',
  cp1257: '29 58-59',
  cp850: '4 80',
  cp852: '40 81',
  cp866: '36 68',
  cp932: '95-96',
  dec8: '3 69',
  eucjpms: '97-98',
  euckr: '19 85',
  gb18030: '248-250',
  gb2312: '24 86',
  gbk: '28 87',
  geostd8: '92-93',
  greek: '25 70',
  hebrew: '16 71',
  hp8: '6 72',
  keybcs2: '37 73',
  koi8r: '7 74',
  koi8u: '22 75',
  latin1: '5 8 15 31 47-49 94',
  latin2: '2 9 21 27 77',
  latin5: '30 78',
  latin7: '20 41-42 79',
  macce: '38 43',
  macroman: '39 53',
  sjis: '13 88',
  swe7: '10 82',
  tis620: '18 89',
  ucs2: '35 90 128-151 159',
  ujis: '12 91',
  utf16: '54-55 101-124',
  utf16le: '56 62',
  utf32: '60-61 160-183',
  utf8mb3: '33 76 83 192-215 223',
  utf8mb4: '45-46 224-247 255-1023', // every collation added since 8.0 is utf8mb4; from 1024 on they are the user's own
}

const byCollation: (string | undefined)[] = []
for (const [name, ranges] of Object.entries(collations))
  for (const range of ranges.split(' ')) {
    const [first, last = first] = range.split('-').map(Number)
    for (let id = first!; id <= last!; id++) byCollation[id] = name
  }

/**
 * MariaDB's own collations begin at 576, and MySQL's newer ones and those that somebody made have the same ids. Ids of
 * MariaDB's are therefore told apart by this, added to them.
 */
const MARIADB = 0x10000
const MARIADB_SINCE = 576
/** A collation id as a MariaDB server gives it, in the form in which it is used here. */
export const mariadbCollation = (id: number): number => (id < MARIADB_SINCE ? id : id + MARIADB)

const unicode = ['utf8mb3', 'utf8mb4', 'ucs2', 'utf16', 'utf32']
/**
 * 576 to 767: croatian and others, 32 for each set, half of them not used. 1024 to 2047: an older collation without
 * padding, its id and 1024. From 2048 on: UCA 14.0.0, 256 for each Unicode set.
 */
function mariadbCharset(id: number): string | undefined {
  if (id >= 2048) return unicode[(id - 2048) >> 8]
  if (id >= 1024) return byCollation[id - 1024]
  const sets: Readonly<Record<number, string>> = {
    18: 'utf8mb3',
    19: 'utf8mb4',
    20: 'ucs2',
    21: 'utf16',
    23: 'utf32',
  }
  return sets[id >> 5]
}

const charsets = new Map<string, Charset>()

/** The character set of a collation. Throws SCHEMA_MISMATCH for an id that is not one of MySQL's or MariaDB's own. */
export function charsetOf(collation: number): Charset {
  const own = collation < MARIADB ? collation : collation - MARIADB
  const name = own === collation ? byCollation[collation] : mariadbCharset(own)
  if (name !== undefined) return charsetNamed(name)
  const message = `collation ${own}: expected the id of a collation of MySQL's own; a self-made one cannot be decoded`
  throw new SluiceError('SCHEMA_MISMATCH', message)
}

/** A character set by MySQL's name ("utf8" is utf8mb3). Throws SCHEMA_MISMATCH for an unknown one. */
export function charsetNamed(name: string): Charset {
  const known = charsets.get(name)
  if (known) return known
  const charset = build(name === 'utf8' ? 'utf8mb3' : name)
  charsets.set(name, charset)
  return charset
}

/** Characters of which a server makes more than "?" though their set lacks them, or "?" though it has them. */
const ODD: Readonly<Record<string, string>> = { eucjpms: '¢£¬', cp932: '晡' }
const characters = new Map<string, ReadonlySet<string>>()

/**
 * What a server keeps of a text in a character set: what the set lacks becomes "?". undefined where that cannot be told.
 * Throws SCHEMA_MISMATCH for an unknown set.
 */
export function keptIn(text: string, name: string): string | undefined {
  if (!/[^ -~]/.test(text) && name !== 'swe7') return text
  const { maxBytes } = charsetNamed(name)
  if (name === 'binary') return undefined
  if (name === 'ucs2' || (maxBytes === 3 && name.startsWith('utf8')))
    return Array.from(text, (c) => (c.length > 1 ? '?' : c)).join('')
  if (maxBytes === 4) return text // all of Unicode
  if (Array.from(ODD[name] ?? '').some((c) => text.includes(c))) return undefined
  let known = characters.get(name)
  if (!known) characters.set(name, (known = charactersOf(name)))
  return Array.from(text, (c) => (known.has(c) ? c : '?')).join('')
}
/** All characters of a set of one to three bytes. */
function charactersOf(name: string): ReadonlySet<string> {
  const { decode, maxBytes } = charsetNamed(name)
  const found = new Set<string>()
  const add = (...bytes: number[]): void => {
    const text = decode(Buffer.from(bytes), 0, bytes.length)
    if (text.length === 1) found.add(text)
  }
  for (let a = 0; a < 256; a++) {
    add(a)
    for (let b = 0; maxBytes > 1 && a >= 0x80 && b < 256; b++) add(a, b)
  }
  for (let b = 0xa1; maxBytes > 2 && b < 256; b++) for (let c = 0xa1; c < 256; c++) add(0x8f, b, c)
  return found
}

function build(name: string): Charset {
  switch (name) {
    case 'utf8mb4':
      return { name, maxBytes: 4, write: writeUtf8, form: 'utf8', decode: decodeUtf8 }
    case 'utf8mb3':
      return { name, maxBytes: 3, write: writeUtf8, form: 'utf8', decode: decodeUtf8 }
    case 'binary':
      return {
        name,
        maxBytes: 1,
        write: writeLatin1,
        form: 'latin1',
        decode: (b, at, end) => b.toString('latin1', at, end),
      }
    case 'ucs2':
      return through(name, 2, writeUtf16)
    case 'utf16':
      return through(name, 4, writeUtf16)
    case 'utf16le':
      return through(name, 4, writeUtf16le)
    case 'utf32':
      return through(name, 4, writeUtf32)
    case 'gb18030':
      return through(name, 4, gb18030Writer())
    default:
  }
  const singles = singleBytes(name)
  if (singles) return through(name, 1, singleByteWriter(singles))
  const layout = doubleByte[name]
  if (layout) return through(name, layout.triple === undefined ? 2 : 3, multiByteWriter(layout))
  throw new SluiceError('SCHEMA_MISMATCH', `character set ${name}: expected one of MySQL's own`)
}

const scratch = new Out(1024)

/** A set whose strings are made from what its writer writes. */
function through(name: string, maxBytes: number, write: TextWriter): Charset {
  const decode: Charset['decode'] = (bytes, at, end) => {
    scratch.reset()
    write(bytes, at, end, scratch)
    return scratch.buf.toString('utf8', 0, scratch.at)
  }
  return { name, maxBytes, write, decode }
}

// ── Unicode ──────────────────────────────────────────────────────────────────

const QUESTION = 0x3f

function writeUtf8(bytes: Buffer, at: number, end: number, out: Out): void {
  out.bytes(bytes, at, end)
}
function decodeUtf8(bytes: Buffer, at: number, end: number): string {
  return bytes.toString('utf8', at, end)
}
function writeLatin1(bytes: Buffer, at: number, end: number, out: Out): void {
  out.latin1(bytes, at, end)
}

/** One code point as UTF-8; a lone surrogate or what lies beyond U+10FFFF as "?". Needs 4 bytes of room. */
function put(out: Out, c: number): void {
  const { buf } = out
  if (c < 0x80) buf[out.at++] = c
  else if (c < 0x800) {
    buf[out.at++] = 0xc0 | (c >> 6)
    buf[out.at++] = 0x80 | (c & 0x3f)
  } else if (c < 0x10000) {
    if (c >= 0xd800 && c < 0xe000) {
      buf[out.at++] = QUESTION
      return
    }
    buf[out.at++] = 0xe0 | (c >> 12)
    buf[out.at++] = 0x80 | ((c >> 6) & 0x3f)
    buf[out.at++] = 0x80 | (c & 0x3f)
  } else if (c < 0x110000) {
    buf[out.at++] = 0xf0 | (c >> 18)
    buf[out.at++] = 0x80 | ((c >> 12) & 0x3f)
    buf[out.at++] = 0x80 | ((c >> 6) & 0x3f)
    buf[out.at++] = 0x80 | (c & 0x3f)
  } else buf[out.at++] = QUESTION
}

/** UTF-16 big-endian; ucs2 is the same without surrogate pairs, which it cannot hold. */
function writeUtf16(bytes: Buffer, at: number, end: number, out: Out): void {
  out.ensure((end - at) * 2)
  for (; at + 1 < end; at += 2) {
    let c = (bytes[at]! << 8) | bytes[at + 1]!
    if (c >= 0xd800 && c < 0xdc00 && at + 3 < end) {
      const low = (bytes[at + 2]! << 8) | bytes[at + 3]!
      if (low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff)
        at += 2
      }
    }
    put(out, c)
  }
}

function writeUtf16le(bytes: Buffer, at: number, end: number, out: Out): void {
  out.ensure((end - at) * 2)
  for (; at + 1 < end; at += 2) {
    let c = bytes[at]! | (bytes[at + 1]! << 8)
    if (c >= 0xd800 && c < 0xdc00 && at + 3 < end) {
      const low = bytes[at + 2]! | (bytes[at + 3]! << 8)
      if (low >= 0xdc00 && low < 0xe000) {
        c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff)
        at += 2
      }
    }
    put(out, c)
  }
}

function writeUtf32(bytes: Buffer, at: number, end: number, out: Out): void {
  out.ensure(end - at)
  for (; at + 3 < end; at += 4)
    put(
      out,
      bytes[at]! * 0x1000000 + ((bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!),
    )
}

// ── one byte a character ─────────────────────────────────────────────────────

const run = (first: number, count: number): string =>
  String.fromCharCode(...Array.from({ length: count }, (_, i) => first + i))
const C1 = run(0x80, 32)

/** The characters of 80 to FF, taken from MySQL 9.7. */
const upperHalves: Readonly<Record<string, string>> = {
  latin1:
    `€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ${run(0xa0, 32)}` +
    'ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ',
  latin2:
    `${C1}\u00a0Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u00adŽŻ°ą˛ł´ľśˇ¸šşťź˝žż` +
    'ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙',
  latin5:
    `${C1}${run(0xa0, 32)}` + 'ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ',
  latin7:
    `${C1}\u00a0”¢£¤„¦§Ø©Ŗ«¬\u00ad®Æ°±²³“µ¶·ø¹ŗ»¼½¾æ` +
    'ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž’',
  cp1250:
    '€?‚?„…†‡?‰Š‹ŚŤŽŹ?‘’“”•–—?™š›śťžź\u00a0ˇ˘Ł¤Ą¦§¨©Ş«¬\u00ad®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż' +
    'ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙',
  cp1251:
    'ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—?™љ›њќћџ\u00a0ЎўЈ¤Ґ¦§Ё©Є«¬\u00ad®Ї°±Ііґµ¶·ё№є»јЅѕї' +
    'АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя',
  cp1256:
    `€\u067e‚ƒ„…†‡ˆ‰?‹Œ\u0686\u0698?\u06af‘’“”•–—?™?›œ\u200c\u200d?\u00a0\u060c¢£¤¥¦§¨©?«¬${run(0xad, 13)}\u061b»¼½¾\u061f` +
    `?${run(0x621, 22)}×${run(0x637, 4)}${run(0x640, 4)}à\u0644â${run(0x645, 4)}çèéêë\u0649\u064aîï${run(0x64b, 4)}ô\u064f\u0650÷\u0651ù\u0652ûü\u200e\u200f?`,
  cp1257:
    '€?‚?„…†‡?‰?‹?¨ˇ¸?‘’“”•–—?™?›?¯˛?\u00a0?¢£¤?¦§Ø©Ŗ«¬\u00ad®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ' +
    'ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙',
  cp850:
    'ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐' +
    '└┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u00ad±‗¾¶§÷¸°¨·¹³²■\u00a0',
  cp852:
    'ÇüéâäůćçłëŐőîŹÄĆÉĹĺôöĽľŚśÖÜŤťŁ×čáíóúĄąŽžĘę¬źČş«»░▒▓│┤ÁÂĚŞ╣║╗╝Żż┐' +
    '└┴┬├─┼Ăă╚╔╩╦╠═╬¤đĐĎËďŇÍÎě┘┌█▄ŢŮ▀ÓßÔŃńňŠšŔÚŕŰýÝţ´\u00ad˝˛ˇ˘§÷¸°¨˙űŘř■\u00a0',
  cp866:
    'АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмноп░▒▓│┤╡╢╖╕╣║╗╝╜╛┐' +
    '└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀рстуфхцчшщъыьэюяЁёЄєЇїЎў°∙·√ⁿ²■\u00a0',
  koi8r:
    '─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■∙√≈≤≥\u00a0⌡°²·÷═║╒ё╓╔╕╖╗╘╙╚╛╜╝╞╟╠╡Ё╢╣╤╥╦╧╨╩╪╫╬©' +
    'юабцдефгхийклмнопярстужвьызшэщчъЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ',
  koi8u:
    '─│┌┐└┘├┤┬┴┼▀▄█▌▐░▒▓⌠■•√≈≤≥\u00a0⌡°²·÷═║╒ёє╔ії╗╘╙╚╛ґ╝╞╟╠╡ЁЄ╣ІЇ╦╧╨╩╪Ґ╬©' +
    'юабцдефгхийклмнопярстужвьызшэщчъЮАБЦДЕФГХИЙКЛМНОПЯРСТУЖВЬЫЗШЭЩЧЪ',
  greek:
    `${C1}\u00a0ʽʼ£??¦§¨©?«¬\u00ad?―°±²³΄΅Ά·ΈΉΊ»Ό½ΎΏ` +
    'ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ?ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ?',
  hebrew:
    `${C1}\u00a0?¢£¤¥¦§¨©×«¬\u00ad®‾°±²³´µ¶·¸¹÷»¼½¾?` +
    `???????????????????????????????‗${run(0x5d0, 27)}??\u200e\u200f?`,
  tis620:
    `${C1}\ufffd${run(0xe01, 31)}` +
    `${run(0xe20, 27)}\ufffd\ufffd\ufffd\ufffd${run(0xe3f, 29)}\ufffd\ufffd\ufffd\ufffd`,
  macroman:
    'ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø' +
    '¿¡¬√ƒ≈∆«»…\u00a0ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›\ufb01\ufb02‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\uf8ffÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ',
  macce:
    'ÄĀāÉĄÖÜáąČäčĆćéŹźĎíďĒēĖóėôöõúĚěü†°Ę£§•¶ß®©™ę¨≠ģĮįĪ≤≥īĶ∂∑łĻļĽľĹĺŅ' +
    'ņŃ¬√ńŇ∆«»…\u00a0ňŐÕőŌ–—“”‘’÷◊ōŔŕŘ‹›řŖŗŠ‚„šŚśÁŤťÍŽžŪÓÔūŮÚůŰűŲųÝýķŻŁżĢˇ',
  dec8:
    `${C1}${run(0xa0, 4)}?¥?§¤©ª«????°±²³?µ¶·?¹º»¼½?¿` +
    'ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ?ÑÒÓÔÕÖŒØÙÚÛÜŸ?ßàáâãäåæçèéêëìíîï?ñòóôõöœøùúûüÿ??',
  hp8:
    `${C1}\u00a0ÀÂÈÊËÎÏ´ˋˆ¨˜ÙÛ₤¯Ýý°ÇçÑñ¡¿¤£¥§ƒ¢` +
    'âêôûáéóúàèòùäëöüÅîØÆåíøæÄìÖÜÉïßÔÁÃãÐðÍÌÓÒÕõŠšÚŸÿÞþ·µ¶¾—¼½ªº«■»±?',
  keybcs2:
    'ČüéďäĎŤčěĚĹÍľĺÄÁÉžŽôöÓůÚýÖÜŠĽÝŘťáíóúňŇŮÔšřŕŔ¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐' +
    '└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0',
  armscii8:
    `${C1}\u00a0❁§։\u0029\u0028»«—\u002e՝\u002c\u002d՟…՜՛՞ԱաԲբԳգԴդԵեԶզԷէ` +
    'ԸըԹթԺժԻիԼլԽխԾծԿկՀհՁձՂղՃճՄմՅյՆնՇշՈոՉչՊպՋջՌռՍսՎվՏտՐրՑցՒւՓփՔքՕօՖֆ’\u0027',
  geostd8:
    `€?‚?„…†‡?‰?‹?????‘’“”•–—???›????${run(0xa0, 32)}` +
    'აბგდევზჱთიკლმნჲოპჟრსტჳუფქღყშჩცძწჭხჴჯჰჵ???????????????????????№??',
  ascii: '?'.repeat(128),
  swe7: '?'.repeat(128),
}

/** The 256 characters of a single-byte set, or undefined where it is none. */
function singleBytes(name: string): Uint16Array | undefined {
  const upper = upperHalves[name]
  if (upper === undefined) return undefined
  assert(upper.length === 128, `the table of ${name} has ${upper.length} characters`)
  const table = Uint16Array.from({ length: 256 }, (_, i) =>
    i < 128 ? i : upper.charCodeAt(i - 128),
  )
  if (name === 'swe7')
    for (const pair of '@É [Ä \\Ö ]Å ^Ü `é {ä |ö }å ~ü \x7f?'.split(' '))
      table[pair.charCodeAt(0)] = pair.charCodeAt(1)
  return table
}

function singleByteWriter(table: Uint16Array): TextWriter {
  return (bytes, at, end, out) => {
    out.ensure((end - at) * 3)
    const { buf } = out
    let to = out.at
    for (; at < end; at++) {
      const c = table[bytes[at]!]!
      if (c < 0x80) buf[to++] = c
      else if (c < 0x800) {
        buf[to++] = 0xc0 | (c >> 6)
        buf[to++] = 0x80 | (c & 0x3f)
      } else {
        buf[to++] = 0xe0 | (c >> 12)
        buf[to++] = 0x80 | ((c >> 6) & 0x3f)
        buf[to++] = 0x80 | (c & 0x3f)
      }
    }
    out.at = to
  }
}

// ── two and three bytes a character ──────────────────────────────────────────

interface Layout {
  readonly decoder: string // the platform's decoder that comes closest
  readonly leads: readonly [number, number] // lead bytes
  readonly trails: readonly [number, number][] // ranges of trail bytes
  readonly singles?: readonly [first: number, last: number, to: number] // non-ASCII characters of one byte
  readonly unified?: true // euckr: Hangul outside KS X 1001, in the order of Unicode (the layout called UHC)
  readonly patches: string // where MySQL differs
  readonly triple?: string // three bytes, 8F first: where MySQL differs; undefined: there are none
}

const EUC: readonly [number, number][] = [[0xa1, 0xfe]]
const SJIS: readonly [number, number][] = [
  [0x40, 0x7e],
  [0x80, 0xfc],
]
const GBK: readonly [number, number][] = [
  [0x40, 0x7e],
  [0x80, 0xfe],
]

/**
 * Differences, taken from MySQL 9.7: "first-last>code" gives the sequences from first to last consecutive code points
 * from `code` on, "first-last>?" none.
 */
const doubleByte: Readonly<Record<string, Layout>> = {
  big5: {
    decoder: 'big5',
    leads: [0xa1, 0xf9],
    trails: [
      [0x40, 0x7e],
      [0xa1, 0xfe],
    ],
    patches:
      'a145>2022 a14e>ff64 a15a>fffd a1c2>203e a1c3>fffd a1c5>fffd a1e3>223c a1f2>2641 a1f3>2609 a1fe>fffd a240>fffd a241>ff0f a242>ff3c a244>a5 a246-a247>a2 a2cc>fffd a2ce>fffd a3c0-a3fe>? c6a1>30fe c6a2-c6a3>309d c6a4>3005 c6a5-c6f7>3041 c6f8-c7b0>30a1 c7b1-c7b2>414 c7b3>401 c7b4-c7ba>416 c7bb-c7cd>423 c7ce>451 c7cf-c7e8>436 c7e9-c7f2>2460 c7f3-c7fc>2474 c7fd-c8fe>? f9dd-f9fe>?',
  },
  gb2312: {
    decoder: 'gbk',
    leads: [0xa1, 0xf7],
    trails: EUC,
    patches:
      'a1a4>30fb a1aa>2015 a2a1-a2b0>? a2e3-a2e4>? a2ef-a2f0>? a2fd-a2fe>? a4f4-a4fe>? a5f7-a5fe>? a6b9-a6c0>? a6d9-a6fe>? a7c2-a7d0>? a7f2-a7fe>? a8bb-a8c4>? a8ea-a9a3>? a9f0-affe>? d7fa-d7fe>?',
  },
  gbk: {
    decoder: 'gbk',
    leads: [0x81, 0xfe],
    trails: GBK,
    patches:
      'a140-a1a0>? a240-a2a0>? a2ab-a2b0>? a2e3-a2e4>? a2ef-a2f0>? a2fd-a3a0>? a440-a4a0>? a4f4-a5a0>? a5f7-a6a0>? a6b9-a6c0>? a6d9-a6df>? a6ec-a6ed>? a6f3>? a6f6-a7a0>? a7c2-a7d0>? a7f2-a7fe>? a896-a8a0>? a8bc>? a8bf>? a8c1-a8c4>? a8ea-a8fe>? a958>? a95b>? a95d-a95f>? a989-a995>? a997-a9a3>? a9f0-a9fe>? aaa1-aafe>? aba1-abfe>? aca1-acfe>? ada1-adfe>? aea1-aefe>? afa1-affe>? d7fa-d7fe>? f8a1-f8fe>? f9a1-f9fe>? faa1-fafe>? fba1-fbfe>? fca1-fcfe>? fda1-fdfe>? fe50-fefe>?',
  },
  euckr: {
    decoder: 'euc-kr',
    leads: [0x81, 0xfe],
    trails: [
      [0x41, 0x5a],
      [0x61, 0x7a],
      [0x81, 0xfe],
    ],
    unified: true,
    patches:
      'a2e6>20ac a2e7>ae a2e8-a2fe>? a5ab-a5af>? a5ba-a5c0>? a5d9-a5e0>? a5f9-a5fe>? a6e5-a6fe>? a7f0-a7fe>? a8a5>? a8a7>? a8b0>? aaf4-aafe>? abf7-abfe>? acc2-acd0>? acf2-acfe>? ada1-adfe>? aea1-aefe>? afa1-affe>? c653-c6a0>? c741-c7a0>? c841-c8a0>? c941-caa0>? cb41-cba0>? cc41-cca0>? cd41-cda0>? ce41-cea0>? cf41-cfa0>? d041-d0a0>? d141-d1a0>? d241-d2a0>? d341-d3a0>? d441-d4a0>? d541-d5a0>? d641-d6a0>? d741-d7a0>? d841-d8a0>? d941-d9a0>? da41-daa0>? db41-dba0>? dc41-dca0>? dd41-dda0>? de41-dea0>? df41-dfa0>? e041-e0a0>? e141-e1a0>? e241-e2a0>? e341-e3a0>? e441-e4a0>? e541-e5a0>? e641-e6a0>? e741-e7a0>? e841-e8a0>? e941-e9a0>? ea41-eaa0>? eb41-eba0>? ec41-eca0>? ed41-eda0>? ee41-eea0>? ef41-efa0>? f041-f0a0>? f141-f1a0>? f241-f2a0>? f341-f3a0>? f441-f4a0>? f541-f5a0>? f641-f6a0>? f741-f7a0>? f841-f8a0>? f941-f9a0>? fa41-faa0>? fb41-fba0>? fc41-fca0>? fd41-fda0>? fe41-fefe>?',
  },
  sjis: {
    decoder: 'shift_jis',
    leads: [0x81, 0xfc],
    trails: SJIS,
    singles: [0xa1, 0xdf, 0xff61],
    patches:
      '815f>5c 8160>301c 8161>2016 817c>2212 8191-8192>a2 81ad-81b7>? 81c0-81c7>? 81ca>ac 81cf-81d9>? 81e9-81ef>? 81f8-81fb>? 8240-824e>? 8259-825f>? 827a-8280>? 829b-829e>? 82f2-82fc>? 8397-839e>? 83b7-83be>? 83d7-83fc>? 8461-846f>? 8492-849e>? 84bf-889e>? 9873-989e>? eaa5-fcfc>?',
  },
  cp932: {
    decoder: 'shift_jis',
    leads: [0x81, 0xfc],
    trails: SJIS,
    singles: [0xa1, 0xdf, 0xff61],
    patches:
      '81ad-81b7>? 81c0-81c7>? 81cf-81d9>? 81e9-81ef>? 81f8-81fb>? 8240-824e>? 8259-825f>? 827a-8280>? 829b-829e>? 82f2-82fc>? 8397-839e>? 83b7-83be>? 83d7-83fc>? 8461-846f>? 8492-849e>? 84bf-86fc>? 875e>? 8776-877d>? 879d-889e>? 9873-989e>? eaa5-ecfc>? eeed-eeee>? ef40-effc>? fc4c-fcfc>?',
  },
  ujis: {
    decoder: 'euc-jp',
    leads: [0x8e, 0xfe],
    trails: EUC,
    patches:
      'a1c0>5c a1c1>301c a1c2>2016 a1dd>2212 a1f1-a1f2>a2 a2af-a2b9>? a2c2-a2c9>? a2cc>ac a2d1-a2db>? a2eb-a2f1>? a2fa-a2fd>? a3a1-a3af>? a3ba-a3c0>? a3db-a3e0>? a3fb-a3fe>? a4f4-a4fe>? a5f7-a5fe>? a6b9-a6c0>? a6d9-a6fe>? a7c2-a7d0>? a7f2-a7fe>? a8c1-affe>? cfd4-cffe>? f4a7-f4fe>? f5a1-fefe>e000',
    triple:
      'a1a1-a2ae>? a2b7>7e a2ba-a2c1>? a2c5-a2ea>? a2f2-a6e0>? a6e6>? a6e8>? a6eb>? a6ed-a6f0>? a6fd-a7c1>? a7cf-a7f1>? a8a1-a8fe>? a9a3>? a9a5>? a9a7>? a9aa>? a9ae>? a9b1-a9c0>? a9d1-a9fe>? aab9>? aaf8-aafe>? abbc>? abc4>? abf8-affe>? ede4-f4fe>? f5a1-fefe>e3ac',
  },
  eucjpms: {
    decoder: 'euc-jp',
    leads: [0x8e, 0xfe],
    trails: EUC,
    patches:
      'a2af-a2b9>? a2c2-a2c9>? a2d1-a2db>? a2eb-a2f1>? a2fa-a2fd>? a3a1-a3af>? a3ba-a3c0>? a3db-a3e0>? a3fb-a3fe>? a4f4-a4fe>? a5f7-a5fe>? a6b9-a6c0>? a6d9-a6fe>? a7c2-a7d0>? a7f2-a7fe>? a8c1-acfe>? adbf>? add7-adde>? adfd-affe>? cfd4-cffe>? f4a7-f4fe>? f5a1-fefe>e000',
    triple:
      'a1a1-a2ae>? a2ba-a2c1>? a2c3>ffe4 a2c5-a2ea>? a2f2-a6e0>? a6e6>? a6e8>? a6eb>? a6ed-a6f0>? a6fd-a7c1>? a7cf-a7f1>? a8a1-a8fe>? a9a3>? a9a5>? a9a7>? a9aa>? a9ae>? a9b1-a9c0>? a9d1-a9fe>? aab9>? aaf8-aafe>? abbc>? abc4>? abf8-affe>? ede4-f3f2>? f3f3-f3fc>2170 f3fd-f4a8>2160 f4a9>ff07 f4aa>ff02 f4ab>3231 f4ac>2116 f4ad>2121 f4ae>70bb f4af>4efc f4b0>50f4 f4b1>51ec f4b2>5307 f4b3>5324 f4b4>fa0e f4b5>548a f4b6>5759 f4b7-f4b8>fa0f f4b9>589e f4ba>5bec f4bb>5cf5 f4bc>5d53 f4bd>fa11 f4be>5fb7 f4bf>6085 f4c0>6120 f4c1>654e f4c2>663b f4c3>6665 f4c4>fa12 f4c5>f929 f4c6>6801 f4c7-f4c8>fa13 f4c9>6a6b f4ca>6ae2 f4cb>6df8 f4cc>6df2 f4cd>7028 f4ce-f4cf>fa15 f4d0>7501 f4d1>7682 f4d2>769e f4d3>fa17 f4d4>7930 f4d5-f4d8>fa18 f4d9>7ae7 f4da-f4db>fa1c f4dc>7da0 f4dd>7dd6 f4de>fa1e f4df>8362 f4e0>fa1f f4e1>85b0 f4e2-f4e3>fa20 f4e4>8807 f4e5>fa22 f4e6>8b7f f4e7>8cf4 f4e8>8d76 f4e9-f4eb>fa23 f4ec>90de f4ed>fa26 f4ee>9115 f4ef-f4f0>fa27 f4f1>9592 f4f2>f9dc f4f3>fa29 f4f4>973b f4f5>974d f4f6>9751 f4f7-f4f9>fa2a f4fa>999e f4fb>9ad9 f4fc>9b72 f4fd>fa2d f4fe>9ed1 f5a1-fefe>e3ac',
  },
}

/** Calls `each` with every valid sequence of two bytes from `first` to `last`, in order. */
function eachPair(layout: Layout, first: number, last: number, each: (code: number) => void): void {
  for (let lead = first >> 8; lead <= last >> 8; lead++)
    for (const [from, to] of layout.trails)
      for (let trail = from; trail <= to; trail++) {
        const code = (lead << 8) | trail
        if (code >= first && code <= last) each(code)
      }
}

function patch(table: Uint16Array, layout: Layout, patches: string): void {
  for (const item of patches.split(' ')) {
    const [range = '', to = ''] = item.split('>')
    const [first = 0, last = first] = range.split('-').map((hex) => Number.parseInt(hex, 16))
    let next = to === '?' ? -1 : Number.parseInt(to, 16)
    eachPair(layout, first, last, (code) => (table[code] = next < 0 ? QUESTION : next++))
  }
}

/** Code units by lead << 8 | trail; 0 where the two bytes are no character. */
function pairTable(layout: Layout, prefix: readonly number[], patches: string): Uint16Array {
  const table = new Uint16Array(0x10000)
  const decoder = new TextDecoder(layout.decoder)
  const [first, last] = prefix.length > 0 ? [0xa1, 0xfe] : layout.leads
  eachPair(layout, first << 8, (last << 8) | 0xff, (code) => {
    const text = decoder.decode(Uint8Array.of(...prefix, code >> 8, code & 0xff))
    if (text.length === 1 && text !== '\ufffd') table[code] = text.charCodeAt(0)
  })
  if (layout.unified) addUnified(table, layout)
  patch(table, layout, patches)
  return table
}

function addUnified(table: Uint16Array, layout: Layout): void {
  const standard = new Set<number>()
  eachPair(layout, 0xa1a1, 0xfefe, (code) => {
    if ((code & 0xff) >= 0xa1) standard.add(table[code]!)
    else table[code] = 0
  })
  let next = 0xac00
  eachPair(layout, 0x8141, 0xc652, (code) => {
    if (code >> 8 >= 0xa1 && (code & 0xff) >= 0xa1) return
    while (standard.has(next)) next++
    table[code] = next++
  })
}

const u16 = (bytes: Buffer, at: number): number => (bytes[at]! << 8) | bytes[at + 1]!

function multiByteWriter(layout: Layout): TextWriter {
  const pairs = pairTable(layout, [], layout.patches)
  const triples =
    layout.triple === undefined
      ? undefined
      : pairTable({ ...layout, trails: EUC }, [0x8f], layout.triple)
  const [firstSingle, lastSingle, toSingle] = layout.singles ?? [256, 256, 0]
  return (bytes, at, end, out) => {
    out.ensure((end - at) * 3)
    while (at < end) {
      const b = bytes[at]!
      let c = b
      let size = 1
      if (b >= firstSingle && b <= lastSingle) c = b - firstSingle + toSingle
      else if (b >= 0x80) {
        const triple = triples !== undefined && b === 0x8f
        const index =
          at + (triple ? 2 : 1) < end ? (triple ? u16(bytes, at + 1) : u16(bytes, at)) : 0
        c = triple ? triples[index]! : pairs[index]!
        if (c === 0) c = QUESTION
        else size = triple ? 3 : 2
      }
      put(out, c)
      at += size
    }
  }
}

// ── gb18030 ──────────────────────────────────────────────────────────────────

/** Four-byte sequences below U+10000: 81308130 to 8431A439, counted in their own order. */
const GB18030_BMP = 39_420
/** The one of U+10000: 90308130. */
const GB18030_ASTRAL = 189_000

/** Two bytes as in gbk, with every sequence assigned, or four: 81-FE, 30-39, 81-FE, 30-39. */
function gb18030Writer(): TextWriter {
  const layout: Layout = {
    decoder: 'gb18030',
    leads: [0x81, 0xfe],
    trails: GBK,
    patches:
      'a3a0>e5e5 a6d9-a6df>e78d a6ec-a6ed>e794 a6f3>e796 fe59>e81e fe61>e826 fe66-fe67>e82b fe6d>e832 fe7e>e843 fe90>e854 fea0>e864',
  }
  const pairs = pairTable(layout, [], layout.patches)
  const quads = gb18030Quads()
  return (bytes, at, end, out) => {
    out.ensure((end - at) * 3)
    while (at < end) {
      const b = bytes[at]!
      let c = b
      let size = 1
      if (b >= 0x80) {
        c = QUESTION
        const second = at + 1 < end ? bytes[at + 1]! : 0
        const index = second < 0x40 && at + 3 < end ? quadIndex(bytes, at) : -1
        if (index >= 0) {
          if (index < GB18030_BMP) c = quads[index]!
          else if (index >= GB18030_ASTRAL) c = 0x10000 + index - GB18030_ASTRAL
          size = 4
        } else if (pairs[(b << 8) | second] !== 0) {
          c = pairs[(b << 8) | second]!
          size = 2
        }
      }
      put(out, c)
      at += size
    }
  }
}

/** Which four-byte sequence stands at `at`, counted in their own order; -1: none. */
function quadIndex(bytes: Buffer, at: number): number {
  const b0 = bytes[at]! - 0x81
  const b1 = bytes[at + 1]! - 0x30
  const b2 = bytes[at + 2]! - 0x81
  const b3 = bytes[at + 3]! - 0x30
  if (b1 < 0 || b1 > 9 || b2 < 0 || b2 > 125 || b3 < 0 || b3 > 9) return -1
  return ((b0 * 10 + b1) * 126 + b2) * 10 + b3
}

function gb18030Quads(): Uint16Array {
  const bytes = new Uint8Array(GB18030_BMP * 4)
  for (let i = 0; i < GB18030_BMP; i++) {
    bytes[i * 4] = 0x81 + Math.floor(i / 12_600)
    bytes[i * 4 + 1] = 0x30 + (Math.floor(i / 1260) % 10)
    bytes[i * 4 + 2] = 0x81 + (Math.floor(i / 10) % 126)
    bytes[i * 4 + 3] = 0x30 + (i % 10)
  }
  const text = new TextDecoder('gb18030').decode(bytes)
  assert(
    text.length === GB18030_BMP,
    `the platform's gb18030 decoder gave ${text.length} characters`,
  )
  return Uint16Array.from(text, (c) => c.charCodeAt(0))
}
