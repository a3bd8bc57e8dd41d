// What can be wrong with a backing device: errors of opening (thrown, with DRBD's number for `attach`) and of operations
// (the four codes of the port). Numbers: DRBD's driver error codes, config-and-tools.md 4.3.

import { AppError } from '../base/errors.ts'
import type { DiskError, DiskErrorCode } from '../runtime/ports.ts'
import { systemCodeOf } from './system-code.ts'

export { systemCodeOf }

export type DiskRole = 'data' | 'meta'

export type DiskOpenCode =
  | 'E_DISK_NOT_FOUND'
  | 'E_DISK_PERMISSION'
  | 'E_DISK_READ_ONLY'
  | 'E_DISK_WRONG_KIND'
  | 'E_DISK_TOO_SMALL'
  | 'E_DISK_CLAIMED'
  | 'E_DISK_NO_LOCK'
  | 'E_DISK_OPEN'

const HINTS: Readonly<Record<DiskOpenCode, string>> = {
  E_DISK_NOT_FOUND: 'Check the path of the disk in the configuration, and that the device has been set up.',
  E_DISK_PERMISSION: 'Run the daemon as root, or give its user read and write permission on the device.',
  E_DISK_READ_ONLY: 'Make the file or device writable: a backing device is written even on a Secondary.',
  E_DISK_WRONG_KIND: 'A backing device is a block device or a regular file.',
  E_DISK_TOO_SMALL: 'Enlarge the file or choose another device.',
  E_DISK_CLAIMED: 'Stop the other daemon, unmount the device, or check that no second resource uses the same path.',
  E_DISK_NO_LOCK: 'Install the flock program (util-linux), or use a file system with locks.',
  E_DISK_OPEN: 'See the message of the operating system.',
}

/** DRBD's numbers: for the data device, for the metadata device. */
const DRBD_CODES: Readonly<Record<DiskOpenCode, readonly [number, number]>> = {
  E_DISK_NOT_FOUND: [104, 105],
  E_DISK_PERMISSION: [104, 105],
  E_DISK_READ_ONLY: [104, 105],
  E_DISK_WRONG_KIND: [104, 105],
  E_DISK_TOO_SMALL: [111, 112],
  E_DISK_CLAIMED: [114, 115],
  E_DISK_NO_LOCK: [104, 105],
  E_DISK_OPEN: [104, 105],
}

export interface DiskOpenDetails {
  readonly path: string
  readonly drbdCode: number
  /** Of the operating system, if it was one of its calls that failed: ENOENT, EACCES, ... */
  readonly systemCode: string | undefined
}

export class DiskOpenError extends AppError {
  override readonly name = 'DiskOpenError'
  readonly code: DiskOpenCode
  readonly hint: string
  readonly details: DiskOpenDetails

  constructor(code: DiskOpenCode, where: { path: string; role: DiskRole }, what: string, cause?: unknown) {
    super(`${where.path}: ${what}`, cause === undefined ? undefined : { cause })
    this.code = code
    this.hint = HINTS[code]
    this.details = {
      path: where.path,
      drbdCode: DRBD_CODES[code][where.role === 'data' ? 0 : 1],
      systemCode: systemCodeOf(cause),
    }
  }
}

const OPERATION_CODES: ReadonlyMap<string, DiskErrorCode> = new Map([
  ['ENOSPC', 'no-space'],
  ['EDQUOT', 'no-space'],
  ['EFBIG', 'no-space'],
  ['EROFS', 'read-only'],
  ['EBADF', 'read-only'], // the descriptor is ours and open; for a write it says: not open for writing
  ['EPERM', 'read-only'], // a block device set read-only, an immutable or sealed file
  ['ENODEV', 'gone'],
  ['ENXIO', 'gone'],
  ['ENOMEDIUM', 'gone'],
  ['ESTALE', 'gone'],
])

/** The port's error for a system error. `what` names the operation, as in `write of 4096 bytes at 8192`. */
export function diskError(path: string, what: string, systemCode: string | undefined): DiskError {
  const code = OPERATION_CODES.get(systemCode ?? '') ?? 'io'
  return { code, message: `${path}: ${what}: ${systemCode ?? 'unknown error'}` }
}
