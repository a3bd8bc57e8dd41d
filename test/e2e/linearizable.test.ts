import test from 'node:test'
import { startPair } from '../support/pair.ts'
import { DiskHistory, DiskWorkload, readBack, flushBoth } from '../support/disk-workload.ts'
import { differenceOfDisks } from '../support/disk-pair.ts'
const one = { sector: 8, sectors: 8 }
const plans = {
 mostly: { operations: 3000, clientsPerSide: 3, inFlightMax: 2, hotPercent: 100, areas: {a: [one], b:[one]}, requestSectorsMax: 8, weights: {read: 30, write: 1, fua: 0, zero: 0, flush: 0} },
 mostly2: { operations: 3000, clientsPerSide: 3, inFlightMax: 2, hotPercent: 50, weights: {read: 30, write: 1, fua: 0, zero: 0, flush: 0} },
 wide: { operations: 2000, clientsPerSide: 8, inFlightMax: 8, hotPercent: 5 },
}
for (const [n, plan] of Object.entries(plans))
for (const readRule of [true, false])
for (const d of [2,5,20])
test(`try ${n} ${d} ${readRule}`, async () => {
  const pair = await startPair({ linkDelayMs: d, engine: { readRule } })
  const t0 = performance.now()
  const history = new DiskHistory()
  try {
  const w = new DiskWorkload(pair, history, { seed: 5, ...plan })
  await w.start()
  await w.finish(20000)
  console.log(n, d, readRule, (performance.now()-t0).toFixed(0), 'ms', w.counts)
  await flushBoth(pair); await readBack(pair, history)
  const v = history.violations()
  console.log('violations', v.length, v[0]?.slice(0, 300), differenceOfDisks(pair))
  } finally { await pair.stop(); if (process.env['LOG']) console.log(pair.log.join('\n')) }
})
