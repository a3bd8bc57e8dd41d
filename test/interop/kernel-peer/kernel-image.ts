// The distribution's kernel, from its package into a cache, ready for QEMU to boot: `linux-image-amd64` of Debian names the
// package, apt downloads it (70 MB, once), and only /boot and /lib/modules are unpacked (400 MB). Nothing is installed.
//
//   CACHE/kernel.json          which package is current
//   CACHE/linux-image-*.deb    as downloaded
//   CACHE/linux-image-*/       unpacked
//   CACHE/vmlinux-*            the image without its compression: QEMU boots an ELF file directly (PVH), and the guest need
//                              not unpack it in emulation, which saves almost half of the boot

import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { constants, gunzipSync } from 'node:zlib'
import { findProgram } from '../../support/programs.ts'

/** The package that always names the current kernel through its Depends. */
const META_PACKAGE = 'linux-image-amd64'
const COMMAND_LIMIT_MS = 300_000
const OUTPUT_BYTES_MAX = 512 * 1024 * 1024
const ELF_MAGIC = 0x7f454c46
const IMAGE_BYTES_MIN = 4 * 1024 * 1024

const NEEDED: readonly (readonly [debianPackage: string, programs: readonly string[]])[] = [
  ['qemu-system-x86', ['qemu-system-x86_64']],
  ['drbd-utils', ['drbdadm', 'drbdmeta', 'drbdsetup']],
  ['busybox-static', ['busybox']],
  ['util-linux', ['setpriv', 'prlimit']],
  ['dpkg', ['dpkg-deb']],
  ['apt', ['apt-get', 'apt-cache']],
  ['tar', ['tar']],
  ['libc-bin', ['ldd']],
]

export interface Kernel {
  readonly deb: string
  readonly release: string
  readonly vmlinuz: string
  readonly modules: string
}

interface KernelRecord {
  readonly release: string
  readonly deb: string
  readonly tree: string
}

export class KernelUnavailableError extends Error {
  override readonly name = 'KernelUnavailableError'
}

export function cacheFolder(): string {
  const own = process.env['DRBD_KERNEL_PEER_CACHE']
  if (own !== undefined && own !== '') return own
  const xdg = process.env['XDG_CACHE_HOME']
  return join(xdg === undefined || xdg === '' ? join(homedir(), '.cache') : xdg, 'coprime', 'kernel-peer')
}

/** False: a guest can be started here. Otherwise the reason why not, to skip a test with. */
export function kernelPeerProblem(): string | false {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'needs Linux on x86-64'
  const missing = NEEDED.filter(([, programs]) => !programs.every((name) => findProgram(name) !== undefined)).map(
    ([name]) => name,
  )
  if (!missing.includes('drbd-utils') && !existsSync('/lib/drbd/drbdsetup-84')) missing.push('drbd-utils')
  return missing.length === 0 ? false : `not installed here: ${missing.join(', ')}`
}

/** Downloads and unpacks what is not in the cache yet. */
export function ensureKernel(): Kernel {
  const cached = cachedKernel()
  if (cached !== undefined) return cached
  const cache = cacheFolder()
  mkdirSync(cache, { recursive: true })
  const name = currentPackage()
  const deb = readdirSync(cache).find((file) => file.startsWith(`${name}_`) && file.endsWith('.deb')) ?? download(name)
  const tree = deb.replace(/\.deb$/, '')
  if (!existsSync(join(cache, tree))) unpack(join(cache, deb), join(cache, tree))
  const record: KernelRecord = { release: name.replace('linux-image-', ''), deb, tree }
  writeFileSync(join(cache, 'kernel.json'), JSON.stringify(record))
  const kernel = cachedKernel()
  if (kernel === undefined) throw new KernelUnavailableError(`${deb} has no kernel image or no modules`)
  return kernel
}

function cachedKernel(): Kernel | undefined {
  const path = join(cacheFolder(), 'kernel.json')
  if (!existsSync(path)) return undefined
  const { release, deb, tree } = JSON.parse(readFileSync(path, 'utf8')) as KernelRecord
  const root = join(cacheFolder(), tree)
  const kernel = {
    deb,
    release,
    vmlinuz: join(root, 'boot', `vmlinuz-${release}`),
    modules: join(root, 'lib/modules', release),
  }
  return existsSync(kernel.vmlinuz) && existsSync(kernel.modules) ? kernel : undefined
}

function currentPackage(): string {
  const ask = (): string | undefined =>
    /Depends:\s+(linux-image-[0-9]\S*)/.exec(mustRun('apt-cache', ['depends', '--important', META_PACKAGE]))?.[1]
  let name: string | undefined
  try {
    name = ask()
  } catch {
    // apt-cache fails where there are no package lists yet.
  }
  if (name === undefined && process.getuid?.() === 0) {
    mustRun('apt-get', ['-qq', 'update'])
    name = ask()
  }
  if (name === undefined)
    throw new KernelUnavailableError(`apt knows no ${META_PACKAGE}: run "apt-get update" as root once`)
  return name
}

function download(name: string): string {
  const cache = cacheFolder()
  const folder = mkdtempSync(join(cache, 'download-'))
  try {
    mustRun('apt-get', ['download', '-q', name], folder)
    const deb = readdirSync(folder).find((file) => file.endsWith('.deb'))
    if (deb === undefined) throw new KernelUnavailableError(`apt-get download ${name} left no package`)
    renameSync(join(folder, deb), join(cache, deb))
    return deb
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function unpack(deb: string, tree: string): void {
  const part = `${tree}.part-${process.pid}`
  rmSync(part, { recursive: true, force: true })
  mkdirSync(part)
  try {
    mustRun('sh', ['-c', 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" ./boot ./lib/modules', 'sh', deb, part])
    renameSync(part, tree)
  } catch (error) {
    rmSync(part, { recursive: true, force: true })
    throw error
  }
}

/** The kernel image as QEMU likes it best; the packed one where it cannot be unpacked. */
export function bootImage(kernel: Kernel): string {
  const path = join(cacheFolder(), `vmlinux-${kernel.deb.replace(/\.deb$/, '')}`)
  if (existsSync(path)) return path
  const image = unpackedImage(readFileSync(kernel.vmlinuz))
  if (image === undefined) return kernel.vmlinuz
  const part = `${path}.part-${process.pid}`
  writeFileSync(part, image)
  renameSync(part, path)
  return path
}

/** Linux/x86 boot protocol: setup sectors at 0x1f1, offset and length of the packed kernel at 0x248 and 0x24c. */
function unpackedImage(file: Buffer): Buffer | undefined {
  const from = ((file[0x1f1] || 4) + 1) * 512 + file.readUInt32LE(0x248)
  const packed = file.subarray(from, from + file.readUInt32LE(0x24c))
  const image = unpackers(packed)()
  return image !== undefined && image.length >= IMAGE_BYTES_MIN && image.readUInt32BE(0) === ELF_MAGIC
    ? image
    : undefined
}

/** The last four bytes are the unpacked length, behind the compressed stream. */
function unpackers(packed: Buffer): () => Buffer | undefined {
  const body = packed.subarray(0, packed.length - 4)
  switch (packed.subarray(0, 4).toString('hex')) {
    case 'fd377a58':
      return () => filter('xz', ['-dc', '--single-stream'], packed)
    case '28b52ffd':
      return () => filter('zstd', ['-dc', '-q'], body)
    default:
      return () => (packed[0] === 0x1f ? gunzipSync(body, { finishFlush: constants.Z_SYNC_FLUSH }) : undefined)
  }
}

function filter(name: string, words: readonly string[], input: Buffer): Buffer | undefined {
  const path = findProgram(name)
  if (path === undefined) return undefined
  return spawnSync(path, words, { input, maxBuffer: OUTPUT_BYTES_MAX, timeout: COMMAND_LIMIT_MS }).stdout
}

export function mustRun(name: string, words: readonly string[], cwd?: string): string {
  const { error, status, stdout, stderr } = spawnSync(findProgram(name) ?? name, words, {
    encoding: 'utf8',
    timeout: COMMAND_LIMIT_MS,
    maxBuffer: OUTPUT_BYTES_MAX,
    cwd,
  })
  if (error !== undefined) throw error
  if (status !== 0) throw new KernelUnavailableError(`${name} ${words.join(' ')}: exit ${status}: ${stderr.trim()}`)
  return stdout
}
