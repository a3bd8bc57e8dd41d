// The guest as one of the two hosts of resource r0: drbdadm's commands, /proc/drbd, reads and writes of /dev/drbd0.

import assert from 'node:assert/strict'
import { type Guest, pause } from './guest.ts'

export interface KernelState {
  /** Unconfigured: not up. */
  readonly connection: string
  readonly role: string
  readonly peerRole: string
  readonly disk: string
  readonly peerDisk: string
  readonly protocol: string
  /** r: I/O runs; s: it is suspended; then paused resyncs: a, p, u. */
  readonly flags: string
  readonly outOfSyncKib: number
  readonly text: string
}

const POLL_MS = 100
const WAIT_MS = 90_000
const DOWN: Omit<KernelState, 'text'> = {
  connection: 'Unconfigured',
  role: 'Unknown',
  peerRole: 'Unknown',
  disk: 'Diskless',
  peerDisk: 'DUnknown',
  protocol: '',
  flags: '',
  outOfSyncKib: 0,
}

export class KernelHost {
  readonly guest: Guest
  #device = '/dev/vda'

  constructor(guest: Guest) {
    this.guest = guest
  }

  /** The backing disk, as the guest names it. */
  get device(): string {
    return this.#device
  }

  async configure(conf: string, device: string): Promise<void> {
    this.#device = device
    await this.guest.writeFile('/etc/drbd.conf', conf)
  }

  /** drbdadm; `words` with the resource. Throws what it said if it fails. */
  drbdadm(words: string): Promise<string> {
    return this.guest.sh(`drbdadm ${words} 2>&1`)
  }

  /** The text of a command that must fail. */
  async refused(words: string): Promise<string> {
    const { code, stdout } = await this.guest.run(`drbdadm ${words} 2>&1`)
    assert.notEqual(code, 0, `drbdadm ${words} should have failed: ${stdout}`)
    return stdout
  }

  async state(): Promise<KernelState> {
    return parseProcDrbd(await this.guest.sh('cat /proc/drbd'))
  }

  async until(what: string, holds: (state: KernelState) => boolean, timeoutMs = WAIT_MS): Promise<KernelState> {
    const deadlineMs = performance.now() + timeoutMs
    for (;;) {
      const state = await this.state()
      if (holds(state)) return state
      assert.ok(performance.now() < deadlineMs, `kernel: not ${what} within ${timeoutMs} ms, but: ${state.text}`)
      await pause(POLL_MS)
    }
  }

  /** Waits for a line in the kernel's log since the row began. */
  async untilLogged(pattern: RegExp, timeoutMs = WAIT_MS): Promise<string> {
    const deadlineMs = performance.now() + timeoutMs
    for (;;) {
      const log = await this.guest.dmesg()
      const line = log.split('\n').find((one) => pattern.test(one))
      if (line !== undefined) return line
      assert.ok(performance.now() < deadlineMs, `kernel: ${pattern} not logged within ${timeoutMs} ms:\n${log}`)
      await pause(POLL_MS)
    }
  }

  // ---- data ---------------------------------------------------------------------------------------------------------

  /** Past the page cache. `how`: more flags of dd, such as `dsync` (FUA). */
  async write(offsetBytes: number, data: Uint8Array, how = ''): Promise<void> {
    const { guest } = this
    const slot = guest.transferSlot()
    guest.putTransfer(slot, data)
    const from = `if=${slot.device} skip=${slot.offsetBytes} iflag=direct,skip_bytes,fullblock`
    const flags = `oflag=direct,seek_bytes${how === '' ? '' : `,${how}`} conv=notrunc`
    await guest.sh(`gdd ${from} of=/dev/drbd0 bs=${data.length} count=1 seek=${offsetBytes} ${flags} 2>&1`)
  }

  /** Random bytes, made in the guest; one write of `blockBytes` after the other. */
  async writeRandom(offsetBytes: number, lengthBytes: number, blockBytes = 4096): Promise<void> {
    const count = lengthBytes / blockBytes
    assert.ok(Number.isInteger(count), 'whole blocks')
    await this.guest.sh(
      `gdd if=/dev/urandom of=/dev/drbd0 bs=${blockBytes} count=${count} seek=${offsetBytes} oflag=direct,seek_bytes iflag=fullblock conv=notrunc 2>&1`,
      120_000,
    )
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    const { guest } = this
    const slot = guest.transferSlot()
    const to = `of=${slot.device} seek=${slot.offsetBytes} oflag=direct,seek_bytes conv=notrunc`
    const from = `if=/dev/drbd0 skip=${offsetBytes} iflag=direct,skip_bytes,fullblock`
    await guest.sh(`gdd ${from} ${to} bs=${lengthBytes} count=1 2>&1`)
    return guest.takeTransfer(slot, lengthBytes)
  }

  sizeSectors(): Promise<number> {
    return this.guest.sh('cat /sys/block/drbd0/size').then(Number)
  }
}

/** ` 0: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----`, and below it counters and `oos:N`. */
export function parseProcDrbd(text: string): KernelState {
  const line = /^ *0: cs:(\S+)(?: ro:(\w+)\/(\w+) ds:(\w+)\/(\w+) (.) (\S+))?/m.exec(text)
  const connection = line?.[1]
  if (line === null || connection === undefined || line[2] === undefined) return { ...DOWN, text }
  return {
    connection,
    role: line[2],
    peerRole: line[3] ?? '',
    disk: line[4] ?? '',
    peerDisk: line[5] ?? '',
    protocol: line[6] ?? '',
    flags: line[7] ?? '',
    outOfSyncKib: Number(/oos:(\d+)/.exec(text.slice(line.index))?.[1] ?? 0),
    text,
  }
}
