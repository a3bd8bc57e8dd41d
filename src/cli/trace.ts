// `trace RESOURCE`: the packets between the two hosts, as they pass, each an arrow; or how many of each there were.

import type { PacketEvent } from '../control/api.ts'
import { PACKET_KINDS, packetLine } from '../runtime/packet-lines.ts'
import { type Context, EXIT_CONFIG, EXIT_OK, EXIT_USAGE } from './context.ts'

export interface TraceOptions {
  readonly kind?: readonly string[]
  readonly count?: string
  readonly seconds?: string
  readonly totals?: boolean
}

/** Ends when the reader has gone, after `count` packets or `seconds`, or with the daemon. */
export async function runTrace(context: Context, name: string, options: TraceOptions): Promise<number> {
  const kinds = new Set<string>(options.kind ?? PACKET_KINDS.filter((kind) => kind !== 'ping'))
  for (const kind of kinds) {
    if ((PACKET_KINDS as readonly string[]).includes(kind)) continue
    context.printError(`trace: no kind of packets is called ${kind}; there are ${PACKET_KINDS.join(', ')}`)
    return EXIT_USAGE
  }
  if (options.totals === true && options.count === undefined && options.seconds === undefined) {
    context.printError('trace: --totals needs --seconds or --count')
    return EXIT_USAGE
  }
  const { resources } = await context.client.status()
  const resource = resources.find((one) => one.name === name)
  if (resource === undefined) {
    context.printError(`${name}: Failure: (158) Unknown resource`)
    return EXIT_CONFIG
  }
  const { local, peer } = resource
  const totals = options.totals === true ? new Totals() : undefined
  let left = options.count === undefined ? Number.POSITIVE_INFINITY : Number(options.count)
  let startMs: number | undefined
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer)
      watch.stop()
      if (totals !== undefined) for (const line of totals.lines(context.json)) context.print(line)
      resolve(EXIT_OK)
    }
    const show = (event: PacketEvent): void => {
      if ('missed' in event) {
        if (totals !== undefined) totals.missed += event.missed
        else
          context.print(
            context.json ? JSON.stringify(event) : `   ... ${event.missed} packets not shown: too many at once`,
          )
        return
      }
      if (!kinds.has(event.kind) || left <= 0) return
      startMs ??= event.atMs
      if (totals !== undefined) totals.add(event)
      else context.print(context.json ? JSON.stringify(event) : packetLine(event, startMs, local.host, peer.host))
      left--
      if (left === 0) end()
    }
    const timer = options.seconds === undefined ? undefined : setTimeout(end, Number(options.seconds) * 1000)
    const watch = context.client.watchPackets(name, show, (error) => {
      clearTimeout(timer)
      reject(error)
    })
  })
}

type Shown = Exclude<PacketEvent, { readonly missed: number }>

interface Total {
  readonly type: string
  readonly direction: Shown['direction']
  readonly stream: Shown['stream']
  packets: number
  sizeBytes: number
  answers: number
  latencyMsSum: number
  latencyMsMax: number
}

class Totals {
  readonly #totals = new Map<string, Total>()
  /** Packets that passed too fast to be counted one by one. */
  missed = 0

  add({ type, direction, stream, sizeBytes = 0, latencyMs }: Shown): void {
    const key = `${type} ${direction}`
    const none = { type, direction, stream, packets: 0, sizeBytes: 0, answers: 0, latencyMsSum: 0, latencyMsMax: 0 }
    const total = this.#totals.get(key) ?? none
    this.#totals.set(key, total)
    total.packets++
    total.sizeBytes += sizeBytes
    if (latencyMs === undefined) return
    total.answers++
    total.latencyMsSum += latencyMs
    total.latencyMsMax = Math.max(total.latencyMsMax, latencyMs)
  }

  lines(json: boolean): string[] {
    const rows = [...this.#totals.values()].sort((a, b) => b.packets - a.packets || (a.type < b.type ? -1 : 1))
    if (json) return [JSON.stringify({ totals: rows.map(withMean), missed: this.missed })]
    const lines = rows.map(({ type, direction, stream, packets, sizeBytes, answers, latencyMsSum, latencyMsMax }) => {
      const words = [type.padEnd(20), direction.padEnd(8), stream, `${packets}`.padStart(9)]
      if (sizeBytes > 0) words.push(`${sizeBytes} bytes`)
      if (answers > 0) words.push(`mean ${(latencyMsSum / answers).toFixed(3)} ms, max ${latencyMsMax.toFixed(3)} ms`)
      return words.join('  ')
    })
    return this.missed === 0 ? lines : [...lines, `${this.missed} packets not counted: too many at once`]
  }
}

const withMean = ({ answers, latencyMsSum, latencyMsMax, ...total }: Total): object =>
  answers === 0 ? total : { ...total, latencyMsMean: latencyMsSum / answers, latencyMsMax }
