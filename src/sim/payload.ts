// What the simulated clients write: sectors that tell who wrote them. A sector is 32 records of 16 bytes, all the same:
//
//   offset  size  field
//   0       4     magic 0x5EC70A5E
//   4       4     writer
//   8       4     operation number of that writer, from 1
//   12      4     sector number on the device
//
// So every sector of every write is unique, a sector made of two writes is seen (torn), and one that went to the wrong
// place is seen as well. All zero is the value 0: never written, or zeroed. Anything else (text that a scenario writes) has
// a hash of its bytes as its value.

import { SECTOR_BYTES } from '../base/units.ts'
import { isAllZero } from './bytes.ts'
import { hashBytes } from './trace.ts'

const MAGIC = 0x5ec70a5e
const RECORD_BYTES = 16
const OPERATIONS_MAX = 0x1_0000_0000

/** The value of a sector: 0, a write's value (see `writtenValue`), or the description of something that nobody wrote. */
export type SectorValue = number | string

export const ZERO_VALUE = 0

/** The value that sectors of this write have. */
export const writtenValue = (writer: number, operation: number): number => writer * OPERATIONS_MAX + operation

export function describeValue(value: SectorValue): string {
  if (typeof value === 'string') return value
  if (value === ZERO_VALUE) return 'zero'
  return `writer ${Math.floor(value / OPERATIONS_MAX)} operation ${value % OPERATIONS_MAX}`
}

/** The data of a write. */
export function encodePayload(write: { writer: number; operation: number; sector: number; sectors: number }) {
  const bytes = new Uint8Array(write.sectors * SECTOR_BYTES)
  const view = new DataView(bytes.buffer)
  for (let i = 0; i < write.sectors; i++) {
    const start = i * SECTOR_BYTES
    view.setUint32(start, MAGIC)
    view.setUint32(start + 4, write.writer)
    view.setUint32(start + 8, write.operation)
    view.setUint32(start + 12, write.sector + i)
    for (let at = RECORD_BYTES; at < SECTOR_BYTES; at *= 2) bytes.copyWithin(start + at, start, start + at)
  }
  return bytes
}

/** What stands in a sector that was read (512 bytes). */
export function decodeSector(bytes: Uint8Array, sector: number): SectorValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, SECTOR_BYTES)
  if (view.getUint32(0) !== MAGIC) return isAllZero(bytes) ? ZERO_VALUE : `bytes ${hashBytes(bytes)}`
  for (let at = RECORD_BYTES; at < SECTOR_BYTES; at += 4) {
    if (view.getUint32(at) !== view.getUint32(at - RECORD_BYTES)) return `torn sector ${sector} at byte ${at}`
  }
  const standsIn = view.getUint32(12)
  if (standsIn !== sector) return `data of sector ${standsIn} in sector ${sector}`
  return writtenValue(view.getUint32(4), view.getUint32(8))
}

/** The values of all sectors of a buffer that starts at `sector`. */
export function decodeSectors(bytes: Uint8Array, sector: number): SectorValue[] {
  const values: SectorValue[] = []
  for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
    values.push(decodeSector(bytes.subarray(at, at + SECTOR_BYTES), sector + at / SECTOR_BYTES))
  }
  return values
}
