// Scenarios that must fail: if one of them passes, the harness is blind, and no other result means anything.

import { decodeSectors, encodePayload } from '../payload.ts'
import { scenario } from '../scenario.ts'
import { Workload } from '../workload.ts'

// Goal: an acknowledged write that is not there is noticed.
// Method: the history says that a write was confirmed which no replica ever saw.
scenario('canary-lost-write', { seeds: 1, mustFail: ['linearizability'] }, (world) => {
  const data = encodePayload({ writer: 999, operation: 1, sector: 8, sectors: 1 })
  const values = decodeSectors(data, 8)
  const lie = { host: 'a', kind: 'write', sector: 8, sectors: 1, fua: false, values, invokedAtUs: 0 } as const
  world.history.complete(world.history.invoke(lie), 'done')
})

// Goal: replicas that are not equal are noticed, although both hosts believe to be in sync.
// Method: the last sector of one disk, which no client uses, changes behind the back of its host after all activity.
scenario('canary-silent-difference', { seeds: 1, mustFail: ['out-of-sync-invariant', 'replicas-equal'] }, (world) => {
  const workload = new Workload(world, { requestsPerClient: 20 })
  world.runUntil(() => workload.isDone, { stepsMax: 500_000 })
  world.runUntilQuiet({ stepsMax: 500_000 })
  world.host('b').device.image.write((world.deviceSectors - 1) * 512, new Uint8Array(512).fill(1))
})

// Goal: a request that nobody answers is noticed.
// Method: the history has one more request than the replicas were given.
scenario('canary-unanswered', { seeds: 1, mustFail: ['progress'] }, (world) => {
  const invokedAtUs = world.scheduler.nowUs
  world.history.invoke({ host: 'a', kind: 'write', sector: 0, sectors: 1, fua: false, values: [1], invokedAtUs })
})
