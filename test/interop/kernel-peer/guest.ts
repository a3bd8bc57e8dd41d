// A small QEMU guest (software emulation: no KVM, no root) whose kernel runs the `drbd` module 8.4.11. The test runs shell
// scripts in it; its DRBD port is forwarded from 127.0.0.1, and it reaches the host's loopback as 10.0.2.2.
//
// QEMU is started through `setpriv --pdeathsig KILL`: it dies with this process, however that ends. `stop` kills it by its
// process id, and the guest powers itself off after an hour.

import { type ChildProcess, spawn } from 'node:child_process'
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../../src/adapters/free-ports.ts'
import { findProgram } from '../../support/programs.ts'
import { onProcessExit, scratchFolder } from '../../support/scratch.ts'
import { GuestChannel } from './guest-channel.ts'
import { ensureInitramfs } from './initramfs.ts'
import { bootImage, ensureKernel } from './kernel-image.ts'

export const GUEST_ADDRESS = '10.0.2.15'
export const HOST_SEEN_FROM_GUEST = '10.0.2.2'
export const GUEST_DRBD_PORT = 7788

const MEMORY_MIB = 256
const CHANNELS = 4
const LIFETIME_SECONDS = 3600
const BOOT_LIMIT_MS = 180_000
const COMMAND_LIMIT_MS = 60_000
const POLL_MS = 50
/** What one command line may carry, in bytes before base64. */
const PIECE_BYTES = 48_000

/** Data pass between here and the guest over a disk of their own: in emulation that is much faster than text on a line. */
const TRANSFER_SLOT_BYTES = 4 * 1024 * 1024
/** More than scripts run side by side. */
const TRANSFER_SLOTS = 8

/** Where data for the guest, or from it, lie. */
export interface TransferSlot {
  /** As the guest names the disk. */
  readonly device: string
  readonly offsetBytes: number
}

export interface GuestDisk {
  /** A raw image; made, sparse, if it is not there. Becomes /dev/vda, /dev/vdb, ... in this order. */
  readonly path: string
  readonly sizeBytes: number
  /** Default true. */
  readonly discard?: boolean
}

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
  readonly bytes: Buffer
}

export class Guest {
  readonly #name: string
  readonly #disks: readonly GuestDisk[]
  readonly #folder = scratchFolder('kp-')
  readonly #hostPort: number
  #qemu: ChildProcess | undefined
  #ended: Promise<void> = Promise.resolve()
  #running = false
  #forgetExit: () => void = () => {}
  #channels: GuestChannel[] = []
  #free: GuestChannel[] = []
  #queue: ((channel: GuestChannel) => void)[] = []
  #nextSlot = 0

  private constructor(name: string, disks: readonly GuestDisk[], hostPort: number) {
    this.#name = name
    this.#disks = disks
    this.#hostPort = hostPort
  }

  static async start(name: string, disks: readonly GuestDisk[]): Promise<Guest> {
    const guest = new Guest(name, disks, await freePort())
    for (const { path, sizeBytes } of guest.#allDisks) {
      if (existsSync(path)) continue
      writeFileSync(path, '')
      truncateSync(path, sizeBytes)
    }
    await guest.boot()
    return guest
  }

  get #allDisks(): readonly GuestDisk[] {
    return [...this.#disks, { path: this.#transferImage, sizeBytes: TRANSFER_SLOTS * TRANSFER_SLOT_BYTES }]
  }

  get #transferImage(): string {
    return join(this.#folder.path, 'transfer.img')
  }

  /** A place for up to 4 MiB, nobody else's for the next few calls. */
  transferSlot(): TransferSlot {
    const slot = this.#nextSlot
    this.#nextSlot = (slot + 1) % TRANSFER_SLOTS
    const letter = String.fromCharCode('a'.charCodeAt(0) + this.#disks.length)
    return { device: `/dev/vd${letter}`, offsetBytes: slot * TRANSFER_SLOT_BYTES }
  }

  /** The guest has to read it past its page cache. */
  putTransfer({ offsetBytes }: TransferSlot, data: Uint8Array): void {
    const fd = openSync(this.#transferImage, 'r+')
    try {
      writeSync(fd, data, 0, data.length, offsetBytes)
    } finally {
      closeSync(fd)
    }
  }

  takeTransfer({ offsetBytes }: TransferSlot, lengthBytes: number): Buffer {
    const fd = openSync(this.#transferImage, 'r')
    try {
      const data = Buffer.alloc(lengthBytes)
      readSync(fd, data, 0, lengthBytes, offsetBytes)
      return data
    } finally {
      closeSync(fd)
    }
  }

  /** The guest's DRBD port as seen from here. */
  get hostPort(): number {
    return this.#hostPort
  }

  get pid(): number {
    const pid = this.#qemu?.pid
    if (pid === undefined) throw new Error('the guest does not run')
    return pid
  }

  // ---- commands -----------------------------------------------------------------------------------------------------

  /** Up to four scripts run side by side; more wait for their turn. */
  async run(script: string, timeoutMs = COMMAND_LIMIT_MS): Promise<CommandResult> {
    const channel = this.#free.pop() ?? (await new Promise<GuestChannel>((resolve) => this.#queue.push(resolve)))
    try {
      const { code, stdout, stderr } = await channel.run(script, timeoutMs)
      return { code, stdout: stdout.toString(), stderr: stderr.toString(), bytes: stdout }
    } finally {
      const next = this.#queue.shift()
      if (next === undefined) this.#free.push(channel)
      else next(channel)
    }
  }

  /** As `run`; anything but exit status 0 is an error. The result is the output without white space at its end. */
  async sh(script: string, timeoutMs = COMMAND_LIMIT_MS): Promise<string> {
    const { code, stdout, stderr } = await this.run(script, timeoutMs)
    if (code !== 0) throw new Error(`in the guest "${script}" ended with ${code}: ${stderr}${stdout}`)
    return stdout.trimEnd()
  }

  async writeFile(path: string, contents: string | Uint8Array): Promise<void> {
    const bytes = Buffer.from(contents)
    await this.sh(`: > '${path}'`)
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES).toString('base64')
      await this.sh(`echo ${piece} | base64 -d >> '${path}'`)
    }
  }

  async dmesg(how: { readonly clear?: boolean } = {}): Promise<string> {
    return (await this.run(how.clear === true ? 'dmesg -c' : 'dmesg')).stdout
  }

  // ---- life ---------------------------------------------------------------------------------------------------------

  /** The whole machine stands still, as a hung one. */
  freeze(): void {
    process.kill(this.pid, 'SIGSTOP')
  }

  thaw(): void {
    process.kill(this.pid, 'SIGCONT')
  }

  async boot(): Promise<void> {
    const console = join(this.#folder.path, 'console.log')
    writeFileSync(console, '') // that of an earlier boot would look like a finished one
    const words = ['--pdeathsig', 'KILL', findProgram('qemu-system-x86_64') ?? '', ...this.#qemuWords(console)]
    const qemu = spawn(findProgram('setpriv') ?? 'setpriv', words, { stdio: ['ignore', 'ignore', 'pipe'] })
    this.#qemu = qemu
    this.#running = true
    let errors = ''
    qemu.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = (errors + text).slice(-4000)
    })
    this.#ended = new Promise((resolve) => {
      const end = (): void => {
        this.#running = false
        resolve()
      }
      qemu.once('exit', end)
      qemu.once('error', end)
    })
    this.#forgetExit = onProcessExit(() => this.#kill())
    try {
      await this.#booted(console, () => errors)
      for (let i = 0; i < CHANNELS; i++)
        this.#channels.push(await GuestChannel.open(join(this.#folder.path, `agent${i}`)))
      this.#free = [...this.#channels]
      await this.sh('true')
    } catch (error) {
      await this.powerOff()
      throw error
    }
  }

  /** As a power failure; what the guest wrote to its disks before is in the images. `boot` starts it again. */
  async powerOff(): Promise<void> {
    this.#kill()
    await this.#ended
    this.#forgetExit()
    for (const channel of this.#channels) channel.close()
    this.#channels = []
    this.#free = []
  }

  async stop(): Promise<void> {
    await this.powerOff()
    this.#folder.remove()
  }

  #kill(): void {
    if (this.#running) this.#qemu?.kill('SIGKILL')
  }

  async #booted(console: string, errors: () => string): Promise<void> {
    const deadlineMs = performance.now() + BOOT_LIMIT_MS
    for (;;) {
      const said = readFileSync(console, 'utf8')
      if (/^guest: up /m.test(said)) return
      if (!this.#running) throw new Error(`qemu ended while the guest booted: ${errors()}\n${said.slice(-2000)}`)
      if (performance.now() > deadlineMs)
        throw new Error(`the guest did not boot in ${BOOT_LIMIT_MS} ms\n${said.slice(-2000)}`)
      await pause(POLL_MS)
    }
  }

  #qemuWords(console: string): string[] {
    const kernel = ensureKernel()
    const command = `console=ttyS0 quiet loglevel=3 panic=1 random.trust_cpu=on log_buf_len=4M guest.name=${this.#name} guest.life=${LIFETIME_SECONDS} guest.drbd=usermode_helper=/bin/true`
    const forward = `hostfwd=tcp:127.0.0.1:${this.#hostPort}-${GUEST_ADDRESS}:${GUEST_DRBD_PORT}`
    const words = ['-nodefaults', '-no-user-config', '-machine', 'q35,accel=tcg', '-cpu', 'max', '-smp', '1']
    words.push('-m', String(MEMORY_MIB), '-display', 'none', '-no-reboot', '-serial', `file:${console}`)
    words.push('-kernel', bootImage(kernel), '-initrd', ensureInitramfs(kernel), '-append', command)
    words.push('-netdev', `user,id=n0,ipv6=off,net=10.0.2.0/24,${forward}`)
    words.push('-device', 'virtio-net-pci,netdev=n0,romfile=')
    words.push('-device', `virtio-serial-pci,id=vs0,max_ports=${CHANNELS + 1}`)
    for (let i = 0; i < CHANNELS; i++) {
      words.push('-chardev', `socket,id=c${i},path=${join(this.#folder.path, `agent${i}`)},server=on,wait=off`)
      words.push('-device', `virtserialport,bus=vs0.0,nr=${i + 1},chardev=c${i},name=agent.${i}`)
    }
    for (const [i, { path, discard = true }] of this.#allDisks.entries()) {
      const file = path.replaceAll(',', ',,')
      const how = `format=raw,cache=writeback,discard=${discard ? 'unmap' : 'ignore'}`
      const able = discard ? 'on' : 'off'
      words.push('-drive', `if=none,id=d${i},file=${file},${how}`)
      words.push('-device', `virtio-blk-pci,drive=d${i},discard=${able},write-zeroes=${able}`)
    }
    return words
  }
}

export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1)
  return port
}

export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
