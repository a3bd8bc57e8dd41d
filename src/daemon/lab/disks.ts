// The backing disks of a lab: sparse files, large enough that clients see exactly the size asked for.

import { closeSync, ftruncateSync, openSync, statSync } from 'node:fs'
import { KIB, MIB, SECTOR_BYTES } from '../../base/units.ts'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../meta/layout.ts'
import { StartError } from '../errors.ts'
import type { LabPaths } from './folder.ts'
import { LAB_SIZE_BYTES_DEFAULT, SIDES, type SideName } from './options.ts'

const GRAIN_BYTES = 4 * KIB
/** Smaller devices are refused at attach. */
const DEVICE_BYTES_MIN = MIB

export interface LabDisks {
  /** What clients see. */
  readonly sizeBytes: number
  /** Without metadata yet. */
  readonly fresh: readonly SideName[]
}

/** Makes the disks that are missing. Existing ones keep their size. */
export function prepareDisks(paths: LabPaths, wantedBytes: number | undefined): LabDisks {
  const existing = SIDES.map((side) => fileBytes(paths.disk[side]))
  const found = [...new Set(existing.filter((bytes) => bytes > 0))]
  const sizeBytes = found[0] === undefined ? (wantedBytes ?? LAB_SIZE_BYTES_DEFAULT) : usableBytes(found[0])
  if (found.length > 1) {
    throw new StartError('E_LAB', `${paths.folder}: the two disks have different sizes`, {
      hint: 'Remove one of them.',
    })
  }
  if (wantedBytes !== undefined && wantedBytes !== sizeBytes) {
    throw new StartError('E_LAB', `${paths.folder}: has disks of ${sizeBytes} bytes, not of ${wantedBytes}`, {
      hint: 'Leave out --size, choose another --dir, or remove the folder with its data.',
    })
  }
  const fresh = SIDES.filter((_, i) => existing[i] === 0)
  for (const side of fresh) createFile(paths.disk[side], deviceBytesFor(sizeBytes))
  return { sizeBytes, fresh }
}

/** The smallest device on which internal metadata leaves so much. */
export function deviceBytesFor(sizeBytes: number): number {
  let deviceBytes = Math.max(DEVICE_BYTES_MIN, sizeBytes + GRAIN_BYTES)
  // The bitmap grows with the device: a few rounds settle it.
  for (;;) {
    const missingBytes = sizeBytes - usableBytes(deviceBytes)
    if (missingBytes <= 0) return deviceBytes
    deviceBytes += Math.ceil(missingBytes / GRAIN_BYTES) * GRAIN_BYTES
  }
}

const usableBytes = (deviceBytes: number): number =>
  internalLayout(deviceBytes, DEFAULT_AL_GEOMETRY).usableSectors * SECTOR_BYTES

/** 0 if there is none. */
function fileBytes(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0
}

function createFile(path: string, sizeBytes: number): void {
  try {
    const fd = openSync(path, 'w', 0o600)
    ftruncateSync(fd, sizeBytes)
    closeSync(fd)
  } catch (cause) {
    throw new StartError('E_LAB', `${path}: cannot be created: ${(cause as Error).message}`, { cause })
  }
}
