// A process that holds a guest and a daemon until it is killed: for left-behind.test.ts. Prints the process ids of both.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { scratchFolder } from '../../support/scratch.ts'
import { CoprimeHost } from './coprime-host.ts'
import { coprimeConf } from './drbd-conf.ts'
import { freePort, Guest } from './guest.ts'
import { emptyFile, MIB } from './pair.ts'

const folder = scratchFolder('kp-').path
const guest = await Guest.start('b', [{ path: join(folder, 'b.img'), sizeBytes: MIB }])
const host = new CoprimeHost(folder)
mkdirSync(folder, { recursive: true })
const image = join(folder, 'a.img')
emptyFile(image, MIB)
const [port, peerPort] = [await freePort(), guest.hostPort]
host.configure(coprimeConf({ image, port, peerPort, nbdSocket: host.nbdSocket }))
await host.start()
process.stdout.write(`${guest.pid} ${host.pid}\n`)
setInterval(() => {}, 1000)
