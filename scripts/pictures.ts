// The pictures of docs/write-orders.md, drawn from what two real daemons said to each other: `npm run pictures`. For each order
// a lab with a slow link; a write through a, one through b, then one through each at the same time on the same block.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { NbdConnectionToServer } from '../src/adapters/nbd-client.ts'
import type { PacketRecord } from '../src/runtime/packet-trace.ts'
import { repositoryRoot } from '../test/support/root.ts'
import { onProcessExit } from '../test/support/scratch.ts'
import { drawSequence, type Span } from './bench/sequence-picture.ts'
import { say } from './console.ts'
import { type HostName, Lab } from './lab.ts'

const LINK_DELAY_MS = 10
const BLOCK_BYTES = 4096
/** Between the three parts of a picture: longer than anything of a part takes. */
const PAUSE_MS = 8 * LINK_DELAY_MS

const ORDERS: readonly { readonly file: string; readonly more: readonly string[] }[] = [
  { file: 'arbitration', more: ['--order', 'arbitration'] },
  { file: 'coordinator', more: ['--order', 'coordinator'] },
  { file: 'coordinator-write-now-acks', more: ['--order', 'coordinator', '--write-now-acks'] },
  { file: 'lock-extents', more: ['--order', 'lock-extents'] },
  { file: 'auto', more: ['--order', 'auto'] },
]

async function draw(folder: string, file: string, more: readonly string[]): Promise<void> {
  const delay = ['--link-delay-ms', String(LINK_DELAY_MS)]
  const lab = await Lab.start({ folder: join(folder, file), size: '16M', detached: false, more: [...more, ...delay] })
  const watches: { stop(): void }[] = []
  try {
    const clients = { a: await lab.a.connect(), b: await lab.b.connect() }
    // Both extents of the activity log are hot afterwards, and the lock of the extent is with b.
    for (const host of ['a', 'b'] as const) await clients[host].write(0, new Uint8Array(BLOCK_BYTES).fill(1))
    await sleep(PAUSE_MS)
    const records: Record<HostName, PacketRecord[]> = { a: [], b: [] }
    for (const host of [lab.a, lab.b]) {
      watches.push(
        host.control.watchPackets(
          'r0',
          (event) => {
            if (!('missed' in event) && (event.kind === 'write' || event.kind === 'order'))
              records[host.name].push(event)
          },
          () => {},
        ),
      )
    }
    await sleep(PAUSE_MS)
    const spans: Span[] = []
    const write = (host: HostName): Promise<void> => timed(clients[host], host, spans)
    await write('a')
    await sleep(PAUSE_MS)
    await write('b')
    await sleep(PAUSE_MS)
    await Promise.all([write('a'), write('b')])
    await sleep(PAUSE_MS)
    const path = join(repositoryRoot, 'docs', 'pictures', `${file}.svg`)
    mkdirSync(join(repositoryRoot, 'docs', 'pictures'), { recursive: true })
    writeFileSync(path, drawSequence(`Packets of writes under ${file}`, records.a, records.b, spans))
    say(path)
    for (const client of Object.values(clients)) await client.disconnect()
  } finally {
    for (const watch of watches) watch.stop()
    await lab.stop()
  }
}

async function timed(client: NbdConnectionToServer, host: HostName, spans: Span[]): Promise<void> {
  const fromMs = performance.timeOrigin + performance.now()
  await client.write(0, new Uint8Array(BLOCK_BYTES).fill(host === 'a' ? 2 : 3))
  spans.push({ host, fromMs, toMs: performance.timeOrigin + performance.now() })
}

const folder = mkdtempSync(join(tmpdir(), 'coprime-pictures-'))
onProcessExit(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
for (const { file, more } of ORDERS) await draw(folder, file, more)
