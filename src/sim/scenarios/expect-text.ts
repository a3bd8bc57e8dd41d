// What a scenario wrote has to be there in the end.

import { expect } from '../failure.ts'
import type { HostName } from '../network.ts'
import type { World } from '../world.ts'

/** A client of the host reads that text there. */
export function expectText(world: World, host: HostName, sector: number, text: string): void {
  const seen = world.client(host).readText({ sector })
  expect(seen === text, `read "${seen}"`, 'durability')
}
