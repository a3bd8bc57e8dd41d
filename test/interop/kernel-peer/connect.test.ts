// Goal: coprime and a kernel find each other, whoever dials, and find each other again after every way of losing each other.
// Method: rows with a relay between the two, which is cut or goes silent; either process is stopped with SIGSTOP.

import assert from 'node:assert/strict'
import { rows } from './pair.ts'

rows('connect', (row) => {
  row('first connection, by both at once; disconnect and connect again from either side', async (pair) => {
    await pair.inSync()
    const state = await pair.coprime.state()
    assert.equal(state.agreedProtocolVersion, 101)
    await pair.coprime.command({ command: 'disconnect' })
    await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
    await pair.coprime.command({ command: 'connect' })
    await pair.clean()
    await pair.kernel.drbdadm('disconnect r0')
    await pair.coprime.until('alone', ({ connection }) => connection === 'WFConnection')
    await pair.kernel.drbdadm('connect r0')
    await pair.clean()
    await pair.finish()
  })
})
