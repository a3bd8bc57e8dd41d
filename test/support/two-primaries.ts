// Two engines back to back, both Primary under one order of writes, and what every test of an order asks in the end.

import assert from 'node:assert/strict'
import type { OrderSettings, ResourceSettings } from '../../src/runtime/api.ts'
import { type DiskJob, type EngineHost, sectorsOf } from './engine-driver.ts'
import { Pair } from './engine-network.ts'

/** Frozen when they lose each other, until a handler says something (which no test here starts by itself). */
const FROZEN = { fencing: 'resource-and-stonith' } as const

export const isDataWrite = (job: DiskJob): boolean =>
  job.text.startsWith('disk.write') || job.text.startsWith('disk.zero')

/** `a` holds the flag. The first extent is hot on both, so that a write starts at once. */
export function twoPrimaries(
  order: OrderSettings,
  settings: Partial<Omit<ResourceSettings, 'volumes'>> = {},
  dataSectors = 2048,
): Pair {
  const pair = connected(order, settings, dataSectors)
  pair.promoteBoth()
  const warm = [pair.a.write(dataSectors - 48, sectorsOf(1, 1)), pair.b.write(dataSectors - 47, sectorsOf(1, 2))]
  for (const host of [pair.a, pair.b]) if (dataSectors > 2048) warm.push(host.write(0, sectorsOf(1, 3)))
  pair.network.advance(1000)
  for (const [i, id] of warm.entries()) assert.equal((i % 2 === 0 ? pair.a : pair.b).answer(id), 'done')
  pair.take()
  return pair
}

/** Connected, both Secondary. */
export function connected(
  order: OrderSettings,
  settings: Partial<Omit<ResourceSettings, 'volumes'>> = {},
  dataSectors = 2048,
): Pair {
  const volumes = [{ dataSectors }]
  const pair = new Pair({ both: { settings: { ...FROZEN, order, ...settings }, volumes } })
  pair.connect('a')
  pair.take()
  return pair
}

/** Everything that was held is let go. */
export function letGo({ a, b, network }: Pair): void {
  network.hold = () => false
  for (const host of [a, b]) host.hold = () => false
  for (let round = 0; round < 4; round++) {
    for (const host of [a, b]) host.completeAll()
    network.advance(100)
  }
}

/** Whether everything is at rest and the same on both sides. */
export function assertQuietAndEqual({ a, b }: Pair): void {
  for (const host of [a, b]) {
    assert.equal(host.engine.connection.established, true, `${host.name}: ${host.engine.connection.reason}`)
    const left = [...host.volume.io.active].map(({ kind, sector, sectors }) => `${kind} ${sector}+${sectors}`)
    assert.deepEqual(left, [], `nothing is in progress on ${host.name}`)
    assert.equal(host.volume.bitmap?.count, 0, `nothing is out of sync on ${host.name}`)
  }
  assert.deepEqual(a.data.differences(b.data), [])
}

/** Lets go; both disks hold `expected` at `sector`, all requests are answered as done. */
export function endsWith(
  pair: Pair,
  sector: number,
  expected: Uint8Array,
  requests: readonly (readonly [EngineHost, number])[],
): void {
  letGo(pair)
  for (const [host, id] of requests) assert.equal(host.answer(id), 'done', `request ${id} on ${host.name}`)
  for (const host of [pair.a, pair.b])
    assert.deepEqual(host.data.read(sector * 512, expected.length), expected, `disk of ${host.name}`)
  assertQuietAndEqual(pair)
}

/** The cable is cut and joined; both hosts are frozen in between. `flag`: who holds the flag then. */
export function reconnect(pair: Pair, flag: 'a' | 'b', between: () => void = () => {}): void {
  const { network } = pair
  network.mayDial = () => false
  network.cut()
  network.run()
  between()
  const holder = flag === 'a' ? pair.a : pair.b
  network.mayDial = (host) => host === holder
  network.advance(2000)
  network.mayDial = () => true
  network.advance(3000)
  assert.equal(holder.engine.connection.established, true, holder.engine.connection.reason)
  assert.equal(holder.engine.connection.resolveConflicts, true)
}
