// `trace RESOURCE`: the packets between the two hosts, as they pass, each an arrow.

import type { PacketEvent } from '../control/api.ts'
import { PACKET_KINDS, packetLine } from '../control/packet-lines.ts'
import { type Context, EXIT_CONFIG, EXIT_OK, EXIT_USAGE } from './context.ts'

export interface TraceOptions {
  readonly kind?: readonly string[]
  readonly count?: string
}

/** Ends when the reader has gone, after `count` packets, or with the daemon. */
export async function runTrace(context: Context, name: string, options: TraceOptions): Promise<number> {
  const kinds = new Set<string>(options.kind ?? PACKET_KINDS.filter((kind) => kind !== 'ping'))
  for (const kind of kinds) {
    if ((PACKET_KINDS as readonly string[]).includes(kind)) continue
    context.printError(`trace: no kind of packets is called ${kind}; there are ${PACKET_KINDS.join(', ')}`)
    return EXIT_USAGE
  }
  const { resources } = await context.client.status()
  const resource = resources.find((one) => one.name === name)
  if (resource === undefined) {
    context.printError(`${name}: Failure: (158) Unknown resource`)
    return EXIT_CONFIG
  }
  const { local, peer } = resource
  let left = options.count === undefined ? Number.POSITIVE_INFINITY : Number(options.count)
  let startMs: number | undefined
  return new Promise((resolve, reject) => {
    const show = (event: PacketEvent): void => {
      if ('missed' in event) {
        context.print(
          context.json ? JSON.stringify(event) : `   ... ${event.missed} packets not shown: too many at once`,
        )
        return
      }
      if (!kinds.has(event.kind) || left <= 0) return
      startMs ??= event.atMs
      context.print(context.json ? JSON.stringify(event) : packetLine(event, startMs, local.host, peer.host))
      left--
      if (left > 0) return
      watch.stop()
      resolve(EXIT_OK)
    }
    const watch = context.client.watchPackets(name, show, reject)
  })
}
