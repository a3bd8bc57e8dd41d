// What several scenarios do in the same way.

import type { PendingRequest } from '../client.ts'
import { expect } from '../failure.ts'
import type { SimHost } from '../host.ts'
import { type HostName, otherHost } from '../network.ts'
import type { World } from '../world.ts'

/** A link so slow that there is time to act while a packet is on its way. */
export const SLOW_LINK = { delayUsMin: 20_000, delayUsMax: 21_000, longDelayPerMille: 0 }

/** After it both superblocks say that their disk is in sync. */
export const SAYS_IN_SYNC_MS = 500

/** Of the activity log. */
export const EXTENT_SECTORS = 8192

/** A client of the host reads that text there. */
export function expectText(world: World, host: HostName, sector: number, text: string): void {
  const seen = world.client(host).readText({ sector })
  expect(seen === text, `read "${seen}"`, 'durability')
}

/** The host gives its disk up by command, and goes on without. */
export function loseDisk(world: World, host: SimHost): void {
  host.command({ type: 'detach', volume: 0, force: true })
  world.runUntil(() => host.isDiskless, { stepsMax: 500_000, what: 'a host without a disk' })
}

/** The host becomes Secondary, and does not want to be Primary again before faults end. */
export function stepBack(world: World, host: SimHost): void {
  host.wantsPrimary = false
  host.command({ type: 'secondary' })
  world.runUntil(() => !host.isPrimary, { stepsMax: 200_000, what: 'a Secondary' })
}

/**
 * A write to eight sectors from 8 on is on both disks, a client of the other host has read it, and the link is lost with its
 * acknowledgement under way. Undefined under coordinator, which lets nobody see it before its writer has heard of it.
 */
export function loseAcknowledgement(world: World, writer: HostName): PendingRequest | undefined {
  const other = otherHost(writer)
  const write = world.client(writer).write({ sector: 8, sectors: 8, text: 'first' })
  const isThere = (): boolean => world.client(other).readText({ sector: 8 }) === 'first'
  world.runUntil(isThere, { stepsMax: 200_000, what: 'the write on the other host' })
  world.network.cut()
  if (world.options.settings.order.name === 'coordinator') return undefined
  expect(!write.settled, 'its acknowledgement was to be under way', 'scenario')
  return write
}
