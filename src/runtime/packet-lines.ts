// Records of packets as lines with arrows, as `coprime trace` prints them:
//
//      0.412 ms  data  a |── P_DATA 8+8 #12 ───────────▶| b
//      0.968 ms  meta  a |◀────── P_WRITE_ACK 8+8 #12 ──| b   0.556 ms

import type { PacketKind, PacketRecord } from './packet-trace.ts'

export const PACKET_KINDS = [
  'write',
  'read',
  'order',
  'barrier',
  'resync',
  'state',
  'handshake',
  'ping',
] as const satisfies readonly PacketKind[]

const ARROW_CHARACTERS = 46

/** `startMs`: what counts as 0. `own` and `peer`: names of the hosts, the own one stands on the left. */
export function packetLine(record: PacketRecord, startMs: number, own: string, peer: string): string {
  const time = (record.atMs - startMs).toFixed(3).padStart(12)
  return `${time} ms  ${record.stream}  ${own} |${arrow(record, record.direction === 'sent')}| ${peer}${latency(record)}`
}

function arrow(record: PacketRecord, pointsRight: boolean): string {
  const label = ` ${packetText(record)} `
  const dashes = '─'.repeat(Math.max(2, ARROW_CHARACTERS - label.length - 2))
  return pointsRight ? `──${label}${dashes}▶` : `◀${dashes}${label}──`
}

const latency = ({ latencyMs }: PacketRecord): string => (latencyMs === undefined ? '' : `  ${latencyMs.toFixed(3)} ms`)

/**
 * The same for a trace of both hosts, in which every packet passes twice: `left` stands on the left whoever speaks, and the bar
 * is with the host that sends or receives at that time.
 *
 *     a |── P_DATA 8+8 #12 ───────────▶  b  data
 *     a  ── P_DATA 8+8 #12 ───────────▶| b  data
 */
export function packetArrow(record: PacketRecord, host: string, left: string, right: string): string {
  const isLeft = host === left
  const shown = arrow(record, (record.direction === 'sent') === isLeft)
  return `${left} ${isLeft ? '|' : ' '}${shown}${isLeft ? ' ' : '|'} ${right}  ${record.stream}${latency(record)}`
}

/** `P_DATA 8+8 #12`: sector and sectors, block id. */
export function packetText({ type, volume, sector, sizeBytes, id }: PacketRecord): string {
  const words = [type]
  if (volume > 0) words.push(`vol${volume}`)
  if (type === 'P_DATA' && sizeBytes === 0) words.push('flush')
  else if (sector !== undefined) words.push(sizeBytes === undefined ? `${sector}` : `${sector}+${sizeBytes / 512}`)
  else if (sizeBytes !== undefined && sizeBytes > 0) words.push(`${sizeBytes} bytes`)
  if (id !== undefined) words.push(`#${id}`)
  return words.join(' ')
}
