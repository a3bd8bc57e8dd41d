import test from 'node:test'
import { startPair } from '../support/pair.ts'
import { DiskHistory, DiskWorkload, readBack, flushBoth } from '../support/disk-workload.ts'
import { differenceOfDisks } from '../support/disk-pair.ts'
for (const readRule of [true, false])
for (const d of [0,2,5,20])
test(`try ${d} ${readRule}`, async () => {
  const pair = await startPair({ linkDelayMs: d, engine: { readRule } })
  const t0 = performance.now()
  const history = new DiskHistory()
  try {
  const w = new DiskWorkload(pair, history, { operations: 4000, seed: 5 })
  await w.start()
  await w.finish(20000)
  console.log(d, readRule, (performance.now()-t0).toFixed(0), 'ms', w.counts)
  await flushBoth(pair); await readBack(pair, history)
  console.log(differenceOfDisks(pair))
  const v = history.violations()
  console.log('violations', v.length, v[0]?.slice(0, 300))
  } finally { await pair.stop(); if (process.env.LOG) console.log(pair.log.join('\n')) }
})
