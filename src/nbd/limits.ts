// Every bound of an NBD session, with unit and reason.

import { assert } from '../base/assert.ts'
import { KIB, MIB } from '../base/units.ts'
import { NBD_STRING_BYTES_MAX } from '../wire/nbd/constants.ts'

export interface NbdLimits {
  /** Requests of one connection in flight. Linux' nbd driver and QEMU use 128 and 16 by default. */
  readonly requestsMax: number
  /**
   * Bytes of one connection in memory: data of writes in flight, room for reads in flight, replies not yet sent. No
   * request starts above it; the last one may exceed it, and one alone is always served, whatever its size.
   */
  readonly bytesMax: number
  /** Data of an option that we look at. The longest that makes sense is a name and some queries of 4 KiB each. */
  readonly optionBytesMax: number
  /** Data of an option that we skip to answer with an error; more closes the connection. */
  readonly optionSkipBytesMax: number
  /** Payload of a refused write that we skip to answer with an error; more closes the connection. */
  readonly payloadSkipBytesMax: number
  /** Extents in the reply to one BLOCK_STATUS: bounds the time spent on one request and the memory for its reply. */
  readonly extentsMax: number
}

export const NBD_LIMITS: NbdLimits = {
  requestsMax: 256,
  bytesMax: 32 * MIB,
  optionBytesMax: 64 * KIB,
  optionSkipBytesMax: 1 * MIB,
  payloadSkipBytesMax: 128 * MIB,
  extentsMax: 1024,
}

export function nbdLimits(changes: Partial<NbdLimits> = {}): NbdLimits {
  const limits = { ...NBD_LIMITS, ...changes }
  assert(limits.requestsMax >= 1, `requestsMax is ${limits.requestsMax}`)
  assert(limits.bytesMax >= 1, `bytesMax is ${limits.bytesMax}`)
  assert(limits.extentsMax >= 1, `extentsMax is ${limits.extentsMax}`)
  // The specification: a server should not refuse a name of 4096 bytes, nor take 32 MiB of payload for an attack.
  assert(limits.optionBytesMax >= 2 * NBD_STRING_BYTES_MAX, `optionBytesMax is ${limits.optionBytesMax}`)
  assert(limits.optionSkipBytesMax >= limits.optionBytesMax, `optionSkipBytesMax is ${limits.optionSkipBytesMax}`)
  assert(limits.payloadSkipBytesMax >= 32 * MIB, `payloadSkipBytesMax is ${limits.payloadSkipBytesMax}`)
  return limits
}
