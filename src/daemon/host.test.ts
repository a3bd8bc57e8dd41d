// Goal: listeners hear of changes soon, once for a burst, and not after they have gone. Method: real timers, with a bound.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Host } from './host.ts'

const newHost = (): Host => new Host({ name: 'alice', configFile: '/c.res', link: undefined })

function heard(host: Host, count: number): Promise<string[]> {
  const names: string[] = []
  return new Promise((resolve) => {
    const stop = host.onChange((name) => {
      names.push(name)
      if (names.length < count) return
      stop()
      resolve(names)
    })
  })
}

test('a burst of changes is one notice for each resource', async () => {
  const host = newHost()
  const names = heard(host, 2)
  for (let i = 0; i < 100; i++) host.changed(i % 2 === 0 ? 'r0' : 'r1')
  assert.deepEqual(await names, ['r0', 'r1'])
})

test('a change after a notice makes another one', async () => {
  const host = newHost()
  const names = heard(host, 2)
  const first = heard(host, 1)
  host.changed('r0')
  await first
  host.changed('r0')
  assert.deepEqual(await names, ['r0', 'r0'])
})

test('commands for a resource that is not there', async () => {
  assert.deepEqual(await newHost().command('r9', { command: 'up' }), { code: 158, text: 'Unknown resource' })
})
