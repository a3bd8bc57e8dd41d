// One entry of the packet table: what a packet is called, its number, its fields. The TypeScript type of the packet is
// derived from the entry. A payload is a fixed part followed by tails, whose length comes from the context or is what is left:
//
//   | fixed fields, in order | tail | last tail |
//
// Some fields depend on the protocol version or features of a connection (wire-protocol.md 3.12 .. 3.14); these stand last in
// their part, so every field has one offset.

import type { FixedField, ValueOf } from '../fields.ts'

/** What must be known of a connection to read or write its packets; changes while the handshake goes on. */
export interface WireContext {
  /** Agreed protocol version; 80 (APV_HANDSHAKE) until the features are exchanged. */
  readonly apv: number
  /** Agreed feature flags. */
  readonly features: number
  /** Size of the data-integrity digest in this direction; 0 = none. */
  readonly integrityBytes: number
}

export type Condition = (context: WireContext) => boolean

/** A field that is there only under a condition, or only when it says something. */
export interface OptionalField<T> {
  readonly kind: 'optional'
  readonly field: FixedField<T>
  readonly present: Condition
  /** Left out of the packet when it has this value, and written as this when the packet does not name it. */
  readonly impliedValue: T | undefined
}

/** A field that is there only under a condition; without it the packet has `valueWhenAbsent`. */
export interface DefaultedField<T> {
  readonly kind: 'defaulted'
  readonly field: FixedField<T> | TailField<T>
  readonly present: Condition
  readonly valueWhenAbsent: T
}

export interface TailField<T> {
  readonly kind: 'tail'
  readonly encoding: 'bytes' | 'string'
  /** Whether an encoded packet holds these bytes in its first buffer or as a buffer of its own, not copied. */
  readonly placement: 'head' | 'own'
  lengthBytesMin(context: WireContext): number
  lengthBytesMax(context: WireContext): number
  readonly multipleOf: number
  /** Carries the type only. */
  readonly valueType?: T
}

type AnyField = FixedField<unknown> | OptionalField<unknown> | DefaultedField<unknown> | TailField<unknown>
export type Fields = Readonly<Record<string, AnyField>>

type FieldValue<F> =
  F extends OptionalField<infer T>
    ? T
    : F extends DefaultedField<infer T>
      ? T
      : F extends TailField<infer T>
        ? T
        : ValueOf<F>

type Flatten<T> = { [K in keyof T]: T[K] }

/** The fields of a packet as an object type. */
export type BodyOf<F> = Flatten<
  {
    readonly [K in keyof F as F[K] extends OptionalField<unknown>
      ? never
      : [FieldValue<F[K]>] extends [never]
        ? never
        : K]: FieldValue<F[K]>
  } & { readonly [K in keyof F as F[K] extends OptionalField<unknown> ? K : never]?: FieldValue<F[K]> }
>

export type Socket = 'data' | 'meta' | 'both'

/**
 * Layouts of packets that are sent for each request have a hand-written codec beside the one that walks the table:
 * `data` is 3.5 without a size (P_DATA and its replies), `ack` 3.8.
 */
export type FastLayout = 'data' | 'ack'

export interface FixedSlot {
  readonly name: string
  readonly label: string
  readonly at: number
  readonly field: FixedField<unknown>
  readonly present: Condition | undefined
  readonly optional: boolean
  readonly impliedValue: unknown
}

export interface TailSlot {
  readonly name: string
  readonly label: string
  readonly field: TailField<unknown>
  readonly present: Condition | undefined
  readonly valueWhenAbsent: unknown
}

export interface PacketEntry<T extends string = string, F extends Fields = Fields> {
  readonly type: T
  readonly command: number
  readonly socket: Socket
  /** Sent before the version is agreed: always in an h80 header (2.4). */
  readonly handshake: boolean
  readonly fastLayout: FastLayout | undefined
  readonly fixed: readonly FixedSlot[]
  readonly tails: readonly TailSlot[]
  /** Carries the type only. */
  readonly fieldsType?: F
}

export interface PacketOptions {
  readonly handshake?: boolean
  readonly fastLayout?: FastLayout
}

export function packet<const T extends string, F extends Fields>(
  type: T,
  command: number,
  socket: Socket,
  fields: F,
  options: PacketOptions = {},
): PacketEntry<T, F> {
  const fixed: FixedSlot[] = []
  const tails: TailSlot[] = []
  let at = 0
  for (const [name, spec] of Object.entries<AnyField>(fields)) {
    const label = `${type}.${name}`
    const present = 'present' in spec ? spec.present : undefined
    const field = 'field' in spec ? spec.field : spec
    if (field.kind === 'tail') {
      const valueWhenAbsent = spec.kind === 'defaulted' ? spec.valueWhenAbsent : undefined
      tails.push({ name, label, field, present, valueWhenAbsent })
      continue
    }
    const optional = spec.kind === 'optional'
    const impliedValue = optional ? spec.impliedValue : undefined
    fixed.push({ name, label, at, field, present, optional, impliedValue })
    at += field.lengthBytes
  }
  const { handshake = false, fastLayout } = options
  return { type, command, socket, handshake, fastLayout, fixed, tails }
}

/** There under the condition only, and then always. */
export const onlyIf = <T>(present: Condition, field: FixedField<T>): OptionalField<T> => ({
  kind: 'optional',
  field,
  present,
  impliedValue: undefined,
})

/** Always on the wire; the packet names it only when it is not the usual value. */
export const usually = <T>(impliedValue: T, field: FixedField<T>): OptionalField<T> => ({
  kind: 'optional',
  field,
  present: always,
  impliedValue,
})

/** On the wire under the condition only; the packet always has it. */
export const defaulted = <T>(present: Condition, field: TailField<T>, valueWhenAbsent: T): DefaultedField<T> => ({
  kind: 'defaulted',
  field,
  present,
  valueWhenAbsent,
})

/** The digest of data-integrity-alg: as long as the context says (3.20). */
export const integrityDigest: TailField<Uint8Array> = {
  kind: 'tail',
  encoding: 'bytes',
  placement: 'head',
  lengthBytesMin: (context) => context.integrityBytes,
  lengthBytesMax: (context) => context.integrityBytes,
  multipleOf: 1,
}

export interface TailLimits {
  readonly min: number
  readonly max: number | ((context: WireContext) => number)
  readonly multipleOf?: number
  readonly placement?: 'head' | 'own'
}

/** Bytes up to the end of the packet. */
export function rest(limits: TailLimits): TailField<Uint8Array> {
  const { min, max, multipleOf = 1, placement = 'own' } = limits
  return {
    kind: 'tail',
    encoding: 'bytes',
    placement,
    lengthBytesMin: () => min,
    lengthBytesMax: typeof max === 'number' ? () => max : max,
    multipleOf,
  }
}

/** A string up to the end of the packet, which is its terminating NUL. */
export const terminatedString = (lengthBytesMax: number): TailField<string> => ({
  kind: 'tail',
  encoding: 'string',
  placement: 'head',
  lengthBytesMin: () => 1,
  lengthBytesMax: () => lengthBytesMax,
  multipleOf: 1,
})

/** What lengths a packet may have under a context. */
export interface LengthBounds {
  readonly fixedBytes: number
  readonly lengthBytesMin: number
  readonly lengthBytesMax: number
  /** `length - baseBytes` is a multiple of this. */
  readonly multipleOf: number
  readonly baseBytes: number
}

export function lengthBounds(entry: PacketEntry, context: WireContext): LengthBounds {
  let fixedBytes = 0
  for (const slot of entry.fixed) {
    if (isPresent(slot, context)) fixedBytes = slot.at + slot.field.lengthBytes
  }
  let lengthBytesMin = fixedBytes
  let lengthBytesMax = fixedBytes
  let baseBytes = fixedBytes
  let multipleOf = 1
  for (const slot of entry.tails) {
    if (!isPresent(slot, context)) continue
    baseBytes = lengthBytesMax // all tails but the last have one length
    lengthBytesMin += slot.field.lengthBytesMin(context)
    lengthBytesMax += slot.field.lengthBytesMax(context)
    multipleOf = slot.field.multipleOf
  }
  return { fixedBytes, lengthBytesMin, lengthBytesMax, multipleOf, baseBytes }
}

export const isPresent = (slot: FixedSlot | TailSlot, context: WireContext): boolean =>
  slot.present === undefined || slot.present(context)

const always: Condition = () => true
