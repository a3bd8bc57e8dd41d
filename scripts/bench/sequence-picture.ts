// A sequence diagram as SVG: two hosts, time downwards, each packet an arrow from where it was sent to where it was received.
// The bars at the sides are the clients' writes, from request to answer.

import { packetText } from '../../src/runtime/packet-lines.ts'
import type { PacketRecord } from '../../src/runtime/packet-trace.ts'

/** A client's write. */
export interface Span {
  readonly host: 'a' | 'b'
  readonly fromMs: number
  readonly toMs: number
}

interface Arrow {
  readonly text: string
  readonly stream: string
  readonly toRight: boolean
  readonly sentMs: number
  readonly receivedMs: number
}

const WIDTH = 640
const LEFT = 110
const RIGHT = WIDTH - LEFT
const TOP = 40
const PIXELS_PER_MS = 3
/** Time in which nothing happens is cut down to this. */
const IDLE_MS_MAX = 14

export function drawSequence(
  title: string,
  ofA: readonly PacketRecord[],
  ofB: readonly PacketRecord[],
  spans: readonly Span[],
): string {
  const arrows = [...matched(ofA, ofB, true), ...matched(ofB, ofA, false)].sort((x, y) => x.sentMs - y.sentMs)
  const y = scale([
    ...arrows.flatMap(({ sentMs, receivedMs }) => [sentMs, receivedMs]),
    ...spans.flatMap(({ fromMs, toMs }) => [fromMs, toMs]),
  ])
  const bottom = y(Number.POSITIVE_INFINITY) + 20
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${bottom + 10}" font-family="sans-serif" font-size="12">`,
    `<title>${title}</title>`,
    `<rect width="100%" height="100%" fill="white"/>`,
    ...(['a', 'b'] as const).map((host) => {
      const x = host === 'a' ? LEFT : RIGHT
      return `<text x="${x}" y="20" text-anchor="middle" font-weight="bold">host ${host}</text><line x1="${x}" y1="${TOP - 10}" x2="${x}" y2="${bottom}" stroke="#444"/>`
    }),
    ...spans.map((span) => spanMarks(span, y)),
    ...arrows.map((arrow) => arrowMarks(arrow, y)),
    '</svg>',
  ]
  return `${parts.join('\n')}\n`
}

/** What one host sent, with the time at which the other received it: streams keep their order. */
function* matched(
  sender: readonly PacketRecord[],
  receiver: readonly PacketRecord[],
  toRight: boolean,
): Generator<Arrow> {
  for (const stream of ['data', 'meta'] as const) {
    const sent = sender.filter((record) => record.stream === stream && record.direction === 'sent')
    const received = receiver.filter((record) => record.stream === stream && record.direction === 'received')
    for (const [i, record] of sent.entries()) {
      const arrival = received[i]
      if (arrival === undefined || arrival.type !== record.type) throw new Error(`no arrival of ${packetText(record)}`)
      yield { text: packetText(record), stream, toRight, sentMs: record.atMs, receivedMs: arrival.atMs }
    }
  }
}

/** From time to place; long pauses are shortened. */
function scale(timesMs: readonly number[]): (timeMs: number) => number {
  const sorted = [...timesMs].sort((x, y) => x - y)
  let place = TOP
  let lastMs = sorted[0] ?? 0
  const places = sorted.map((timeMs) => {
    place += Math.min(timeMs - lastMs, IDLE_MS_MAX) * PIXELS_PER_MS
    lastMs = timeMs
    return [timeMs, place] as const
  })
  return (timeMs) => Math.round(places.findLast(([known]) => known <= timeMs)?.[1] ?? TOP)
}

function arrowMarks({ text, stream, toRight, sentMs, receivedMs }: Arrow, y: (timeMs: number) => number): string {
  const [x1, x2] = toRight ? [LEFT, RIGHT] : [RIGHT, LEFT]
  const [y1, y2] = [y(sentMs), y(receivedMs)]
  const colour = stream === 'data' ? '#1f5fa8' : '#b05010'
  const angle = Math.atan2(y2 - y1, x2 - x1)
  const tip = [0.9, -0.9]
    .map(
      (turn) =>
        `${(x2 - 9 * Math.cos(angle + turn / 2)).toFixed(1)},${(y2 - 9 * Math.sin(angle + turn / 2)).toFixed(1)}`,
    )
    .join(` ${x2},${y2} `)
  // Not in the middle, and each stream elsewhere, so that arrows which cross or lie together keep their texts apart.
  const share = stream === 'data' ? 0.25 : 0.7
  const [tx, ty] = [x1 + (x2 - x1) * share, y1 + (y2 - y1) * share - 5]
  const degrees = ((toRight ? angle : Math.atan2(y1 - y2, x1 - x2)) * 180) / Math.PI
  return (
    `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" stroke="${colour}"/><polyline points="${tip}" fill="none" stroke="${colour}"/>` +
    `<text x="${tx.toFixed(0)}" y="${ty.toFixed(0)}" fill="${colour}" text-anchor="middle" transform="rotate(${degrees.toFixed(1)} ${tx.toFixed(0)} ${ty.toFixed(0)})">${text}</text>`
  )
}

function spanMarks({ host, fromMs, toMs }: Span, y: (timeMs: number) => number): string {
  const x = host === 'a' ? LEFT - 14 : RIGHT + 14
  const [y1, y2] = [y(fromMs), y(toMs)]
  const [tx, anchor] = host === 'a' ? [x - 6, 'end'] : [x + 6, 'start']
  return (
    `<line x1="${x}" y1="${y1}" x2="${x}" y2="${y2}" stroke="#2e8540" stroke-width="4"/>` +
    `<text x="${tx}" y="${y1 + 10}" text-anchor="${anchor}" fill="#2e8540">write</text>` +
    `<text x="${tx}" y="${y1 + 24}" text-anchor="${anchor}" fill="#2e8540">${(toMs - fromMs).toFixed(0)} ms</text>`
  )
}
