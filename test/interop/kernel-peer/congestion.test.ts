// Goal: who is congested goes on without the other (Ahead), tells it what it misses, and resyncs it afterwards; meanwhile the
// other one is Behind, and its data are not taken for good. Either side, and two of ours.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { CoprimeHost } from './coprime-host.ts'
import { coprimeConf } from './drbd-conf.ts'
import { freePort } from './guest.ts'
import { DISK, emptyFile, firstDifference, type KernelPair, MIB, NET, rows } from './pair.ts'
import { Relay } from './relay.ts'

const CONGESTED = { protocol: 'A', 'on-congestion': 'pull-ahead', 'congestion-fill': '64k', 'sndbuf-size': '64k' }
const DELAY_MS = 700

rows('congestion', (row) => {
  row('the kernel is Ahead, coprime is Behind', async (pair) => {
    await pair.inSync({ net: CONGESTED })
    await pair.kernel.drbdadm('primary r0')
    pair.relay.delay(DELAY_MS)
    await pair.kernel.writeRandom(0, MIB, 16_384)
    await pair.coprime.until('Behind', ({ volume }) => volume.connection === 'Behind')
    await pair.kernel.writeRandom(4 * MIB, 65_536)
    pair.relay.delay(0)
    await pair.finish()
  })

  row('coprime is Ahead, the kernel is Behind', async (pair) => {
    await pair.inSync({ net: CONGESTED })
    await pair.coprime.primary()
    pair.relay.delay(DELAY_MS)
    await writeInTurn(pair.coprime, 0, 64)
    assert.equal((await pair.coprime.state()).volume.connection, 'Ahead')
    await pair.kernel.until('Behind', ({ connection }) => connection === 'Behind')
    await writeInTurn(pair.coprime, 4 * MIB, 4)
    await (await pair.coprime.nbd()).trim(8 * MIB, 65_536)
    await (await pair.coprime.nbd()).flush()
    const { volume } = await pair.coprime.state()
    assert.ok(volume.outOfSyncBlocks >= 4 * 60, `${volume.outOfSyncBlocks} blocks are out of sync`)
    pair.relay.delay(0)
    await pair.clean()
    assert.equal(pair.coprime.logged(/resync as source begins/), 1)
    await pair.finish()
  })

  row('coprime is Ahead and loses the link: the kernel is resynced when it is back', async (pair) => {
    await pair.inSync({ net: CONGESTED })
    pair.allow(/sock_recvmsg|short read|error receiving/)
    await pair.coprime.primary()
    pair.relay.delay(DELAY_MS)
    await writeInTurn(pair.coprime, 0, 64)
    assert.equal((await pair.coprime.state()).volume.connection, 'Ahead')
    pair.relay.cut()
    await pair.apart()
    await writeInTurn(pair.coprime, 2 * MIB, 4)
    pair.relay.heal()
    await pair.finish()
  })

  row('coprime, on-congestion disconnect: it goes on alone until it is told to connect', async (pair) => {
    await pair.inSync({ net: { ...CONGESTED, 'on-congestion': 'disconnect' } })
    pair.allow(/sock_recvmsg|short read|error receiving|given up/)
    await pair.coprime.primary()
    pair.relay.delay(DELAY_MS)
    await writeInTurn(pair.coprime, 0, 64)
    await pair.coprime.until('StandAlone', ({ connection }) => connection === 'StandAlone')
    pair.relay.delay(0)
    await pair.coprime.command({ command: 'connect' })
    await pair.finish()
  })

  row('two of ours: one Ahead, the other Behind', twoOfOurs)
})

async function writeInTurn(host: CoprimeHost, offsetBytes: number, count: number): Promise<void> {
  const nbd = await host.nbd()
  for (let i = 0; i < count; i++) await nbd.write(offsetBytes + i * 16_384, randomBytes(16_384))
}

async function twoOfOurs(pair: KernelPair): Promise<void> {
  await pair.begin()
  const relay = new Relay()
  const folders = ['two-a', 'two-b'].map((name) => join(pair.folder, name))
  const images = folders.map((folder) => join(folder, 'disk.img')) as [string, string]
  for (const folder of folders) mkdirSync(folder, { recursive: true })
  for (const image of images) emptyFile(image, 16 * MIB)
  const hosts = (['a', 'b'] as const).map((node, i) => new CoprimeHost(folders[i] as string, node)) as [
    CoprimeHost,
    CoprimeHost,
  ]
  const ports = [await freePort(), await freePort()] as const
  const passages = [await relay.link('coprime', ports[1]), await relay.link('kernel', ports[0])] as const
  for (const [i, host] of hosts.entries()) {
    // Each sees its own port, and the passage to the other.
    const port = i === 0 ? ports[0] : passages[1]
    const peerPort = i === 0 ? passages[0] : ports[1]
    const paths = { image: images[0], peerImage: images[1], nbdSocket: host.nbdSocket }
    host.configure(coprimeConf({ ...paths, port, peerPort, net: { ...NET, ...CONGESTED }, disk: DISK }))
  }
  try {
    for (const host of hosts) {
      await host.run('create-md', '--force', 'r0')
      await host.start()
      await host.command({ command: 'up' })
    }
    const [a, b] = hosts
    for (const host of hosts) await host.until('in sync', ({ volume }) => volume.disk === 'UpToDate')
    await a.primary()
    relay.delay(DELAY_MS)
    await writeInTurn(a, 0, 64)
    await b.until('Behind', ({ volume }) => volume.connection === 'Behind')
    await writeInTurn(a, 4 * MIB, 4)
    relay.delay(0)
    for (const host of hosts)
      await host.until('in sync', ({ volume }) => volume.connection === 'Connected' && volume.outOfSyncBlocks === 0)
    assert.equal(a.logged(/resync as source begins/), 1)
    await a.secondary()
    for (const host of hosts) await host.command({ command: 'down' })
  } finally {
    for (const host of hosts) await host.stop()
    relay.close()
  }
  assert.equal(firstDifference(images[0], images[1], 15 * MIB), undefined)
}
