// Goal: the mutants fit the sources, and the hunt for them works.
// Method: each patch has to find its text once; then three that are quickly found are compiled and hunted for real.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'node:test'
import { mutantsByOrder } from '../../scripts/mutants/catalogue.ts'
import { repositoryRoot } from '../support/root.ts'

const all = [...mutantsByOrder.values()].flat()

it('names are unique, and there are enough', () => {
  assert.equal(new Set(all.map(({ name }) => name)).size, all.length)
  assert.ok(all.length >= 20, `${all.length}`)
})

for (const { name, edits } of all) {
  it(`${name} applies`, () => {
    for (const { file, find, replace } of edits) {
      const text = readFileSync(join(repositoryRoot, 'src', file), 'utf8')
      assert.equal(text.split(find).length - 1, 1, `${file}: ${find}`)
      assert.notEqual(find, replace)
    }
  })
}

it('three of them are caught', { timeout: 300_000 }, () => {
  const names = ['wrong-winner', 'postponed-not-restarted', 'overlapping-local-writes']
  const args = ['dist/scripts/sim-mutants.js', '--seeds', '20', '--only', names.join()]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: repositoryRoot, encoding: 'utf8' })
  assert.equal(status, 0, stdout + stderr)
  assert.match(stdout, /3 of 3 mutants caught/)
})
