// The four data generation identifiers of a disk and the operations on them. Each operation returns new identifiers.
//
//   current    the data generation that this disk holds; bit 0 says "Primary"
//   bitmap     the generation from which on the bitmap counts differences; 0 = not counting against a peer
//   history1   earlier values of `bitmap`, the younger one
//   history2   and the older one
//
// Source: wire protocol specification section 5.1, metadata specification section 4.

export interface Uuids {
  readonly current: bigint
  readonly bitmap: bigint
  readonly history1: bigint
  readonly history2: bigint
}

/** `current` of metadata that has never been attached: no data yet. */
export const UUID_JUST_CREATED = 4n
/** Added, modulo 2^64, to a bitmap UUID when a resync starts from it. */
export const UUID_RESYNC_OFFSET = 0x0001_0000_0000_0000n

const PRIMARY_BIT = 1n

/** history2 := history1. */
export function shiftHistory(uuids: Uuids): Uuids {
  return { ...uuids, history2: uuids.history1 }
}

/** Puts `value` into the bitmap slot; what was there, unless 0, becomes the youngest history. */
export function setAndRotateBitmap(uuids: Uuids, value: bigint): Uuids {
  const bitmap = BigInt.asUintN(64, value)
  if (uuids.bitmap === 0n) return { ...uuids, bitmap }
  return { ...shiftHistory(uuids), history1: uuids.bitmap, bitmap }
}

/** Starts a new generation: the bitmap counts from the old one on. `random` gives all bits but bit 0, the own role. */
export function newCurrent(uuids: Uuids, random: bigint, primary: boolean): Uuids {
  return { ...uuids, bitmap: uuids.current, current: withPrimaryBit(BigInt.asUintN(64, random), primary) }
}

/** Ends the counting (a resync has finished): the bitmap slot becomes history. Nothing to do if it is 0. */
export function retireBitmap(uuids: Uuids): Uuids {
  if (uuids.bitmap === 0n) return uuids
  return { ...shiftHistory(uuids), history1: uuids.bitmap, bitmap: 0n }
}

export function withPrimaryBit(uuid: bigint, primary: boolean): bigint {
  return primary ? uuid | PRIMARY_BIT : uuid & ~PRIMARY_BIT
}

/** Comparisons leave bit 0 out: it is a role marker, not part of the identity. */
export function sameGeneration(a: bigint, b: bigint): boolean {
  return (a | PRIMARY_BIT) === (b | PRIMARY_BIT)
}
