// What several scenarios do in the same way.

import { expect } from '../failure.ts'
import type { SimHost } from '../host.ts'
import type { HostName } from '../network.ts'
import type { World } from '../world.ts'

/** A link so slow that there is time to act while a packet is on its way. */
export const SLOW_LINK = { delayUsMin: 20_000, delayUsMax: 21_000, longDelayPerMille: 0 }

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
