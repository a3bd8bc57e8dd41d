// When the world is quiet and both hosts claim to be in sync, their data areas must be equal, byte for byte.

import { SECTOR_BYTES } from '../../base/units.ts'
import { sameBytes } from '../bytes.ts'
import { PAGE_BYTES, type SimDiskImage } from '../disk-image.ts'

const ZERO_PAGE = new Uint8Array(PAGE_BYTES)

/** A message about the first difference among the first `dataBytes` bytes, if there is one. */
export function checkReplicasEqual(a: SimDiskImage, b: SimDiskImage, dataBytes: number): string | undefined {
  const pages = new Set([...a.pageNumbers(), ...b.pageNumbers()])
  for (const page of [...pages].sort((x, y) => x - y)) {
    const offsetBytes = page * PAGE_BYTES
    if (offsetBytes >= dataBytes) break
    const lengthBytes = Math.min(PAGE_BYTES, dataBytes - offsetBytes)
    const inA = a.page(page) ?? ZERO_PAGE
    const inB = b.page(page) ?? ZERO_PAGE
    if (sameBytes(inA, inB, lengthBytes)) continue
    for (let i = 0; i < lengthBytes; i++) {
      if (inA[i] !== inB[i]) return `the disks differ in sector ${Math.floor((offsetBytes + i) / SECTOR_BYTES)}`
    }
  }
  return undefined
}
