// What a lab is asked to be, checked.

import { GIB, KIB, MIB } from '../../base/units.ts'
import type { OrderName } from '../../runtime/api.ts'
import { StartError } from '../errors.ts'

export const LAB_SIZE_BYTES_DEFAULT = 64 * MIB
export const LAB_DELAY_MS_MAX = 2000
const SIZE_GRAIN_BYTES = 4 * KIB
const SIZE_BYTES_MIN = MIB
const SIZE_BYTES_MAX = 16 * 1024 * GIB

export const SIDES = ['a', 'b'] as const
export type SideName = (typeof SIDES)[number]
export const otherSide = (side: SideName): SideName => (side === 'a' ? 'b' : 'a')

const ORDERS = ['arbitration', 'coordinator', 'lock-extents', 'auto'] as const
const PROTOCOLS = ['A', 'B', 'C'] as const
export type Protocol = (typeof PROTOCOLS)[number]

export interface LabOptions {
  /** Absolute. */
  readonly folder: string
  /** What clients see; undefined: that of the disks in the folder, or the default. */
  readonly sizeBytes: number | undefined
  readonly protocol: Protocol
  readonly order: OrderName
  /** For the orders with a coordinator. */
  readonly writeNowAcks: boolean
  readonly linkDelayMs: number
  /** A daemon that was killed is started again after a second. */
  readonly restart: boolean
  readonly logLevel: string
}

export function parseOrder(text: string, protocol: Protocol): OrderName {
  const order = ORDERS.find((one) => one === text)
  if (order === undefined) throw new StartError('E_ARGUMENT', `--order ${text}: must be one of ${ORDERS.join(', ')}`)
  if (order !== 'arbitration' && protocol !== 'C') {
    throw new StartError('E_ARGUMENT', `--order ${text}: needs --protocol C, as all two Primaries do`)
  }
  return order
}

export function parseProtocol(text: string): Protocol {
  const protocol = PROTOCOLS.find((one) => one === text.toUpperCase())
  if (protocol === undefined) throw new StartError('E_ARGUMENT', `--protocol ${text}: must be one of A, B, C`)
  return protocol
}

export function parseDelayMs(text: string, what: string): number {
  const delayMs = /^[0-9]{1,5}(\.[0-9]{1,3})?$/.test(text) ? Number(text) : Number.NaN
  if (!(delayMs <= LAB_DELAY_MS_MAX)) {
    throw new StartError('E_ARGUMENT', `${what} ${text}: must be 0 to ${LAB_DELAY_MS_MAX} milliseconds`)
  }
  return delayMs
}

const SUFFIX_BYTES: Readonly<Record<string, number>> = { '': 1, K: KIB, M: MIB, G: GIB, T: 1024 * GIB }

export function parseSizeBytes(text: string): number {
  const parts = /^([0-9]{1,15})([KMGT]?)(?:i?B)?$/i.exec(text)
  const factor = SUFFIX_BYTES[(parts?.[2] ?? '').toUpperCase()] ?? 1
  const sizeBytes = parts === null ? Number.NaN : Number(parts[1]) * factor
  if (!(sizeBytes >= SIZE_BYTES_MIN && sizeBytes <= SIZE_BYTES_MAX)) {
    throw new StartError('E_ARGUMENT', `--size ${text}: must be 1M to 16T, as in 64M or 2G`)
  }
  if (sizeBytes % SIZE_GRAIN_BYTES !== 0) throw new StartError('E_ARGUMENT', `--size ${text}: must be a multiple of 4K`)
  return sizeBytes
}

export function parseSide(text: string): SideName {
  const side = SIDES.find((one) => one === text)
  if (side === undefined) throw new StartError('E_ARGUMENT', `'${text}': must be a or b`)
  return side
}
