// Opens a backing device so that nobody else does: a regular file or a block device, for reading and writing, claimed.
//
// The claim must hold against every other daemon (and this one), and must end with the process however it ends:
//   regular file   flock(2), exclusive, on the open file description. The kernel drops it with the last descriptor.
//                  Without FFI the flock program takes the same lock on our description, which it inherits as its fd 3.
//   block device   open(2) with O_EXCL: the kernel's own claim on the device, not on a device node; it excludes mounts,
//                  device mapper, kernel DRBD and every other O_EXCL opener. (No flock here: udev takes shared flocks for
//                  moments and would make attaches fail at random.)
// A metadata device may hold the metadata of several volumes, each in a slot of its own: `shared` opens within this process use
// one descriptor, counted.

import { spawnSync } from 'node:child_process'
import { close, closeSync, constants, fstatSync, openSync, readFileSync, type Stats, statSync } from 'node:fs'

import { assert } from '../base/assert.ts'
import { alignDown, SECTOR_BYTES } from '../base/units.ts'
import { DiskOpenError, type DiskRole } from './disk-errors.ts'
import { ERRNO, errnoName, type Posix } from './posix.ts'
import { systemCodeOf } from './system-code.ts'

export interface OpenRequest {
  readonly path: string
  readonly role: DiskRole
  readonly shared: boolean
  readonly posix: Posix | undefined
}

export class OpenedDevice {
  readonly fd: number
  readonly path: string
  readonly isBlockDevice: boolean
  /** Rounded down to whole sectors. */
  readonly sizeBytes: number
  readonly #posix: Posix | undefined
  readonly #inode: string
  readonly #sharedKey: string | undefined
  #users = 1

  constructor(fd: number, path: string, status: Stats, posix: Posix | undefined, sharedKey: string | undefined) {
    this.fd = fd
    this.path = path
    this.isBlockDevice = status.isBlockDevice()
    this.#posix = posix
    this.#inode = inodeOf(status)
    this.#sharedKey = sharedKey
    this.sizeBytes = alignDown(this.#measure(status), SECTOR_BYTES)
  }

  /** As it is now, 0 if it cannot be told: a device that was pulled out. */
  sizeBytesNow(): number {
    return this.#measure(fstatSync(this.fd))
  }

  /** Why the path no longer leads to this device, or undefined if it does. The size is another matter. */
  whyNotThere(): string | undefined {
    try {
      if (inodeOf(statSync(this.path)) !== this.#inode) return 'another file is at its path'
    } catch (error) {
      return `its path leads nowhere (${systemCodeOf(error)})`
    }
    return undefined
  }

  addUser(): void {
    assert(this.#users > 0, 'a device that is closed cannot be shared')
    this.#users++
  }

  /** The caller has no operation under way. `released` is called when the claim is given up. */
  removeUser(released: () => void): void {
    assert(this.#users > 0, 'a device has been released more often than opened')
    this.#users--
    if (this.#users > 0) {
      released()
      return
    }
    if (this.#sharedKey !== undefined) sharedDevices.delete(this.#sharedKey)
    if (this.isBlockDevice) {
      // The last close of a block device writes back all that is dirty: not here. Errors went to the last flush.
      close(this.fd, () => released())
    } else {
      closeSync(this.fd)
      released()
    }
  }

  #measure(status: Stats): number {
    if (!this.isBlockDevice) return status.size
    const sizeBytes = this.#posix?.blockSizeBytes(this.fd) ?? -1
    return sizeBytes >= 0 ? sizeBytes : readSysfs(status.rdev, 'size') * SECTOR_BYTES
  }
}

/** Devices opened with `shared`, by inode or device number. */
const sharedDevices = new Map<string, OpenedDevice>()

/** Throws DiskOpenError. */
export function openDevice(request: OpenRequest): OpenedDevice {
  const expected = statOrThrow(request)
  if (!expected.isFile() && !expected.isBlockDevice()) {
    throw new DiskOpenError(
      'E_DISK_WRONG_KIND',
      request,
      `is ${kindOf(expected)}, not a block device or a regular file`,
    )
  }
  const key = keyOf(expected)
  const existing = request.shared ? sharedDevices.get(key) : undefined
  if (existing !== undefined) {
    existing.addUser()
    return existing
  }
  const fd = openOrThrow(request, expected.isBlockDevice())
  try {
    const status = fstatSync(fd)
    if (keyOf(status) !== key) throw new DiskOpenError('E_DISK_OPEN', request, 'was replaced while it was being opened')
    if (status.isFile()) lockOrThrow(request, fd)
    else if (isReadOnly(request.posix, fd, status.rdev)) {
      // The kernel lets root open it for writing, and refuses the writes.
      throw new DiskOpenError('E_DISK_READ_ONLY', request, 'is a device that is set read-only')
    }
    const device = new OpenedDevice(fd, request.path, status, request.posix, request.shared ? key : undefined)
    if (device.sizeBytes === 0) {
      throw new DiskOpenError('E_DISK_TOO_SMALL', request, `has no room for a single sector of ${SECTOR_BYTES} bytes`)
    }
    if (request.shared) sharedDevices.set(key, device)
    return device
  } catch (error) {
    closeSync(fd)
    throw error
  }
}

const inodeOf = (status: Stats): string => `${status.dev}:${status.ino}`
const keyOf = (status: Stats): string => (status.isBlockDevice() ? `block ${status.rdev}` : inodeOf(status))

function kindOf(status: Stats): string {
  if (status.isDirectory()) return 'a directory'
  if (status.isCharacterDevice()) return 'a character device'
  if (status.isFIFO()) return 'a pipe'
  return 'a socket'
}

function statOrThrow(request: OpenRequest): Stats {
  try {
    return statSync(request.path)
  } catch (error) {
    throw openError(request, error)
  }
}

function openOrThrow(request: OpenRequest, isBlockDevice: boolean): number {
  try {
    // Not O_EXCL for files: without O_CREAT it means nothing there.
    return openSync(request.path, constants.O_RDWR | (isBlockDevice ? constants.O_EXCL : 0))
  } catch (error) {
    throw openError(request, error)
  }
}

function openError(request: OpenRequest, error: unknown): DiskOpenError {
  const systemCode = systemCodeOf(error)
  switch (systemCode) {
    case 'ENOENT':
    case 'ENOTDIR':
    case 'ELOOP':
    case 'ENXIO':
    case 'ENODEV':
    case 'ENOMEDIUM':
      return new DiskOpenError('E_DISK_NOT_FOUND', request, `cannot be found (${systemCode})`, error)
    case 'EROFS':
    case 'ETXTBSY':
      return new DiskOpenError('E_DISK_READ_ONLY', request, `cannot be written (${systemCode})`, error)
    case 'EACCES':
    case 'EPERM':
      return isReadable(request.path)
        ? new DiskOpenError('E_DISK_READ_ONLY', request, `may be read but not written (${systemCode})`, error)
        : new DiskOpenError('E_DISK_PERMISSION', request, `permission denied (${systemCode})`, error)
    case 'EBUSY':
      return new DiskOpenError('E_DISK_CLAIMED', request, 'is in use: mounted, or opened by another program', error)
    default:
      return new DiskOpenError('E_DISK_OPEN', request, `cannot be opened (${systemCode ?? String(error)})`, error)
  }
}

/** By opening it: access(2) would ask for the real user, not for the effective one. */
function isReadable(path: string): boolean {
  try {
    closeSync(openSync(path, constants.O_RDONLY | constants.O_NONBLOCK))
    return true
  } catch {
    return false
  }
}

function lockOrThrow(request: OpenRequest, fd: number): void {
  const claimed = () => new DiskOpenError('E_DISK_CLAIMED', request, 'is in use by another daemon or another volume')
  if (request.posix !== undefined) {
    const result = request.posix.lockExclusive(fd)
    if (result === 0) return
    if (result === -ERRNO.EWOULDBLOCK) throw claimed()
    throw new DiskOpenError('E_DISK_NO_LOCK', request, `cannot be locked (${errnoName(result)})`)
  }
  // Exit code 1: held by someone else (util-linux and busybox alike).
  const program = spawnSync('flock', ['-x', '-n', '3'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
  if (program.status === 0) return
  if (program.status === 1) throw claimed()
  throw new DiskOpenError('E_DISK_NO_LOCK', request, 'cannot be locked: neither FFI nor the flock program is at hand')
}

function isReadOnly(posix: Posix | undefined, fd: number, deviceNumber: number): boolean {
  return posix === undefined ? readSysfs(deviceNumber, 'ro') === 1 : posix.blockIsReadOnly(fd)
}

/** Its `size` is in sectors of 512 bytes, whatever the device's own are. 0 if there is no such device. */
function readSysfs(deviceNumber: number, attribute: 'size' | 'ro'): number {
  const major = Math.floor(deviceNumber / 256) % 4096
  const minor = (deviceNumber % 256) + Math.floor(deviceNumber / 0x10_0000) * 256
  try {
    return Number(readFileSync(`/sys/dev/block/${major}:${minor}/${attribute}`, 'utf8'))
  } catch {
    return 0
  }
}
