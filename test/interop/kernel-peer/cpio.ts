// Writes a cpio archive of the "newc" kind, which the kernel takes as its initramfs: no cpio program and no root needed.
//
//   each entry    6 bytes "070701", 13 fields of 8 hexadecimal digits, name and NUL, padding to 4, data, padding to 4

import { posix } from 'node:path'

const DIRECTORY = 0o040755
const REGULAR = 0o100000
const SYMBOLIC_LINK = 0o120777
const CHARACTER_DEVICE = 0o020600

export class CpioArchive {
  readonly #parts: Uint8Array[] = []
  readonly #folders = new Set<string>()
  #inode = 1

  folder(path: string): void {
    if (path === '' || path === '.' || this.#folders.has(path)) return
    this.folder(posix.dirname(path))
    this.#folders.add(path)
    this.#entry(path, DIRECTORY)
  }

  file(path: string, contents: string | Uint8Array, mode = 0o755): void {
    this.folder(posix.dirname(path))
    this.#entry(path, REGULAR | mode, Buffer.from(contents))
  }

  link(path: string, target: string): void {
    this.folder(posix.dirname(path))
    this.#entry(path, SYMBOLIC_LINK, Buffer.from(target))
  }

  characterDevice(path: string, major: number, minor: number): void {
    this.folder(posix.dirname(path))
    this.#entry(path, CHARACTER_DEVICE, Buffer.alloc(0), [major, minor])
  }

  finish(): Buffer {
    this.#entry('TRAILER!!!', 0)
    return Buffer.concat(this.#parts)
  }

  #entry(path: string, mode: number, data: Buffer = Buffer.alloc(0), device: readonly [number, number] = [0, 0]): void {
    const name = Buffer.from(`${path}\0`)
    const fields = [this.#inode++, mode, 0, 0, 1, 0, data.length, 0, 0, ...device, name.length, 0]
    const head = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`)
    this.#parts.push(head, name, padding(head.length + name.length), data, padding(data.length))
  }
}

const padding = (lengthBytes: number): Buffer => Buffer.alloc((4 - (lengthBytes % 4)) % 4)
