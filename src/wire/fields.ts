// Fixed-size fields of binary packets: how one value stands in bytes. Integers are big-endian. A packet table (for instance
// drbd/packets.ts) is put together from these, and the TypeScript type of a packet follows from its fields.
//
// | field           | bytes | value                                                                    |
// |-----------------|-------|--------------------------------------------------------------------------|
// | u8, u16, u32    | 1,2,4 | number                                                                   |
// | i32             | 4     | number, two's complement                                                 |
// | u64             | 8     | number; above 2^53 - 1 refused, because we calculate with it             |
// | uuid64          | 8     | bigint: an identifier, never calculated with                             |
// | flag8           | 1     | boolean; any value but 0 is true                                         |
// | paddedString(n) | n     | printable ASCII, padded with NUL, at least one NUL                       |
// | reserved(n)     | n     | no value: written as zeroes, not looked at when read                     |
// | group({...})    | sum   | an object of fields, one behind the other                                |
//
// Reading bytes of others throws BadFieldError; writing a value that does not fit is our own mistake and asserts.

import { assert } from '../base/assert.ts'
import { AppError } from '../base/errors.ts'

export class BadFieldError extends AppError {
  override readonly name = 'BadFieldError'
  readonly code = 'E_BAD_FIELD'
  readonly hint =
    'The peer sent a value that its protocol does not allow: check that both hosts run compatible versions.'
  readonly details: { readonly field: string; readonly problem: string }

  constructor(details: BadFieldError['details']) {
    super(`${details.field}: ${details.problem}`)
    this.details = details
  }
}

export interface FixedField<T> {
  readonly kind: 'fixed'
  readonly lengthBytes: number
  /** `label` names the field in an error, as `P_DATA.sector`. */
  read(view: DataView, at: number, label: string): T
  write(view: DataView, at: number, value: T, label: string): void
}

/** The type of a field's value; never for `reserved`. */
export type ValueOf<F> = F extends { read(view: DataView, at: number, label: string): infer T } ? T : never

type GroupOf<F> = { readonly [K in keyof F as [ValueOf<F[K]>] extends [never] ? never : K]: ValueOf<F[K]> }

const TWO_32 = 0x1_0000_0000
const HIGH_WORD_MAX = 0x1f_ffff // of 2^53 - 1

/** Reads a u64 that is calculated with. */
export function readU64(view: DataView, at: number, label: string): number {
  const high = view.getUint32(at)
  const low = view.getUint32(at + 4)
  if (high > HIGH_WORD_MAX) {
    throw new BadFieldError({ field: label, problem: `${view.getBigUint64(at)} is above 2^53 - 1` })
  }
  return high * TWO_32 + low
}

export function writeU64(view: DataView, at: number, value: number): void {
  const low = value >>> 0
  view.setUint32(at, (value - low) / TWO_32)
  view.setUint32(at + 4, low)
}

export const u8 = unsigned(
  1,
  (view, at) => view.getUint8(at),
  (view, at, value) => view.setUint8(at, value),
)
export const u16 = unsigned(
  2,
  (view, at) => view.getUint16(at),
  (view, at, value) => view.setUint16(at, value),
)
export const u32 = unsigned(
  4,
  (view, at) => view.getUint32(at),
  (view, at, value) => view.setUint32(at, value),
)

export const i32: FixedField<number> = {
  kind: 'fixed',
  lengthBytes: 4,
  read: (view, at) => view.getInt32(at),
  write: (view, at, value, label) => {
    assert((value | 0) === value, `${label}: ${value} does not fit in i32`)
    view.setInt32(at, value)
  },
}

export const u64: FixedField<number> = {
  kind: 'fixed',
  lengthBytes: 8,
  read: readU64,
  write: (view, at, value, label) => {
    assert(Number.isSafeInteger(value) && value >= 0, `${label}: ${value} is not an integer from 0 to 2^53 - 1`)
    writeU64(view, at, value)
  },
}

export const uuid64: FixedField<bigint> = {
  kind: 'fixed',
  lengthBytes: 8,
  read: (view, at) => view.getBigUint64(at),
  write: (view, at, value, label) => {
    assert(value >= 0n && value < 1n << 64n, `${label}: ${value} does not fit in u64`)
    view.setBigUint64(at, value)
  },
}

export const flag8: FixedField<boolean> = {
  kind: 'fixed',
  lengthBytes: 1,
  read: (view, at) => view.getUint8(at) !== 0,
  write: (view, at, value) => view.setUint8(at, value ? 1 : 0),
}

export interface SizeLimits {
  readonly min: number
  readonly max: number
  readonly multipleOf: number
}

/** A u32 count of bytes with a range of its own. */
export function sizeBytes32(limits: SizeLimits): FixedField<number> {
  const { min, max, multipleOf } = limits
  const fits = (value: number): boolean => value >= min && value <= max && value % multipleOf === 0
  const rule = `a multiple of ${multipleOf} from ${min} to ${max}`
  return {
    kind: 'fixed',
    lengthBytes: 4,
    read: (view, at, label) => {
      const value = view.getUint32(at)
      if (!fits(value)) throw new BadFieldError({ field: label, problem: `${value} is not ${rule}` })
      return value
    },
    write: (view, at, value, label) => {
      assert(fits(value), `${label}: ${value} is not ${rule}`)
      view.setUint32(at, value)
    },
  }
}

export function paddedString(lengthBytes: number): FixedField<string> {
  return {
    kind: 'fixed',
    lengthBytes,
    read: (view, at, label) => {
      let end = 0
      while (end < lengthBytes && view.getUint8(at + end) !== 0) end++
      if (end === lengthBytes) throw new BadFieldError({ field: label, problem: 'the string has no terminating NUL' })
      return readAscii(view, at, end, label)
    },
    write: (view, at, value, label) => {
      assert(value.length < lengthBytes, `${label}: "${value}" is longer than ${lengthBytes - 1} bytes`)
      writeAscii(view, at, value, label)
      for (let i = value.length; i < lengthBytes; i++) view.setUint8(at + i, 0)
    },
  }
}

export function reserved(lengthBytes: number): FixedField<never> {
  return {
    kind: 'fixed',
    lengthBytes,
    read: () => undefined as never, // the caller leaves it out of the packet
    write: (view, at) => {
      for (let i = 0; i < lengthBytes; i++) view.setUint8(at + i, 0)
    },
  }
}

export function group<F extends Readonly<Record<string, FixedField<unknown>>>>(fields: F): FixedField<GroupOf<F>> {
  const slots = Object.entries(fields)
  return {
    kind: 'fixed',
    lengthBytes: slots.reduce((sum, [, field]) => sum + field.lengthBytes, 0),
    read: (view, at, label) => {
      const value: Record<string, unknown> = {}
      let position = at
      for (const [name, field] of slots) {
        const member = field.read(view, position, `${label}.${name}`)
        if (member !== undefined) value[name] = member
        position += field.lengthBytes
      }
      return value as GroupOf<F>
    },
    write: (view, at, value, label) => {
      const members = value as Readonly<Record<string, unknown>>
      let position = at
      for (const [name, field] of slots) {
        field.write(view, position, members[name], `${label}.${name}`)
        position += field.lengthBytes
      }
    },
  }
}

/** Reads `lengthBytes` characters; anything but printable ASCII is refused (the names in question are identifiers). */
export function readAscii(view: DataView, at: number, lengthBytes: number, label: string): string {
  let text = ''
  for (let i = 0; i < lengthBytes; i++) {
    const byte = view.getUint8(at + i)
    if (!isPrintable(byte)) throw new BadFieldError({ field: label, problem: `byte ${byte} in a string` })
    text += String.fromCharCode(byte)
  }
  return text
}

export function writeAscii(view: DataView, at: number, text: string, label: string): void {
  for (let i = 0; i < text.length; i++) {
    const byte = text.charCodeAt(i)
    assert(isPrintable(byte), `${label}: "${text}" is not printable ASCII`)
    view.setUint8(at + i, byte)
  }
}

const isPrintable = (byte: number): boolean => byte >= 0x20 && byte <= 0x7e

function unsigned(
  lengthBytes: number,
  read: (view: DataView, at: number) => number,
  write: (view: DataView, at: number, value: number) => void,
): FixedField<number> {
  const limit = 2 ** (8 * lengthBytes)
  return {
    kind: 'fixed',
    lengthBytes,
    read,
    write: (view, at, value, label) => {
      assert(
        Number.isInteger(value) && value >= 0 && value < limit,
        `${label}: ${value} does not fit in ${lengthBytes} bytes`,
      )
      write(view, at, value)
    },
  }
}
