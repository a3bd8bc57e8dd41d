// Goal: the files of test/golden/config are accepted and refused as drbdadm does, and what is dumped reads back the same.
// Method: drbdadm's exit codes are recorded in outcomes.json (test/interop/drbdadm-config.test.ts checks them against the
// real programs); a file counts as accepted if drbdadm 8.4 or 9 accepts it. Files called exception-* differ on purpose: the
// comment on top of each says why.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { corpus, loadCorpusFile, loadCorpusText, outcomes } from '../../test/support/config-corpus.ts'
import { ConfigError, dumpConfiguration } from './index.ts'

test('there is a verdict for each file', () => {
  assert.ok(corpus.length >= 40)
  assert.deepEqual(corpus, Object.keys(outcomes).sort())
})

for (const file of corpus) {
  const { drbd9, drbd84 } = outcomes[file] ?? assert.fail(file)
  const byDrbd = drbd9 === 0 || drbd84 === 0
  const expected = file.startsWith('exception-') ? !byDrbd : byDrbd
  test(`${file} is ${expected ? 'accepted' : 'refused'}`, () => {
    if (expected) {
      const dump = dumpConfiguration(loadCorpusFile(file))
      assert.equal(withoutPlaces(dumpConfiguration(loadCorpusText(dump))), withoutPlaces(dump))
      return
    }
    assert.throws(
      () => loadCorpusFile(file),
      (error) => error instanceof ConfigError && (error.exitCode === drbd9 || error.exitCode === drbd84 || byDrbd),
    )
  })
}

/** The dump names the file that it was made of, and lines of it. */
const withoutPlaces = (dump: string): string => dump.replace(/^# (?:defined at |\/).*$/gm, '')
