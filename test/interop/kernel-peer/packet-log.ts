// The packets that pass through the relay, decoded, one line each: for the story of a failure.

import { Player } from '../../golden/drbd/replay.ts'
import type { Relay, Side } from './relay.ts'

const NODE = { coprime: 'a', kernel: 'b' } as const
const NAME = { a: 'coprime', b: 'kernel ' } as const
/** Fields that say nothing in a line. */
const LEFT_OUT = new Set(['type', 'volume', 'digest'])

export class PacketLog {
  #player = new Player()
  #lines: string[] = []
  #broken = false
  readonly #relay: Relay
  readonly #onLine: ((line: string) => void) | undefined

  /** `onLine`: gets each line at once; else they are kept for `take`. */
  constructor(relay: Relay, onLine?: (line: string) => void) {
    this.#onLine = onLine
    this.#relay = relay
    relay.watch = (connection, from, chunk) => this.#onChunk(connection, from, chunk)
  }

  /** Lines since the last call. */
  take(): readonly string[] {
    const lines = this.#lines
    this.#lines = []
    return lines
  }

  stop(): void {
    this.#relay.watch = undefined
  }

  #onChunk(c: number, from: Side, chunk: Buffer | undefined): void {
    if (this.#broken) return
    const t = performance.now()
    try {
      if (chunk === undefined) this.#player.onEvent({ t, ev: 'open', c, from: NODE[from] })
      else this.#player.onEvent({ t, c, d: from === 'coprime' ? 'a>b' : 'b>a', b: chunk.toString('base64') })
    } catch (error) {
      this.#broken = true
      this.#lines.push(`no more packets: ${String(error)}`)
    }
    for (const { connection, kind, sender, packet } of this.#player.take()) {
      const fields = Object.entries(packet)
        .filter(([key]) => !LEFT_OUT.has(key))
        .map(([key, value]) => `${key}=${value instanceof Uint8Array ? `${value.length} bytes` : shown(key, value)}`)
      const line = `${t.toFixed(1)} ${connection} ${kind} ${NAME[sender]} ${packet.type} ${fields.join(' ')}`
      if (this.#onLine === undefined) this.#lines.push(line)
      else this.#onLine(line)
    }
  }
}

const shown = (key: string, value: unknown): string =>
  /blockId|uuid|current|bitmap|history|state|flags/.test(key) &&
  (typeof value === 'number' || typeof value === 'bigint')
    ? `0x${value.toString(16)}`
    : String(value)
