// Goal: every option of the file that acts reaches the replica in its unit, and what DRBD refuses at connect is refused with
// its number. Method: small configurations through the real reader.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { SystemDigests } from '../adapters/system-digests.ts'
import { loadConfiguration, usableResource } from '../config/index.ts'
import { connectProblem, type LocalResource, localResource, resourceSettings } from './settings.ts'

function read(resource: string, hostName = 'alice'): LocalResource {
  const text = `resource r0 { ${resource}
    device minor 1; meta-disk internal;
    on alice { disk /dev/a; address 10.0.0.1:7789; }
    on bob { disk /dev/b; address 10.0.0.2:7789; } }`
  const files = {
    read: () => text,
    glob: () => [],
    realPath: (path: string) => path,
    directoryOf: () => '/',
    join: (_directory: string, path: string) => path,
  }
  return localResource(usableResource(loadConfiguration('/c.res', files, { hostName }), 'r0'))
}

const refusalOf = (net: string): number | undefined =>
  connectProblem(read(`net { ${net} }`).resource, new SystemDigests())?.code

test('defaults are those of DRBD 8.4', () => {
  const settings = resourceSettings(read(''))
  const { volumes, ...rest } = settings
  assert.deepEqual(rest, {
    name: 'r0',
    protocol: 'C',
    allowTwoPrimaries: false,
    fencing: 'dont-care',
    fencePeerHandler: false,
    onNoDataAccessible: 'io-error',
    afterSb0p: 0,
    afterSb1p: 0,
    afterSb2p: 0,
    alwaysAsbp: false,
    rrConflict: 0,
    cramHmacAlg: '',
    sharedSecret: '',
    dataIntegrityAlg: '',
    verifyAlg: '',
    csumsAlg: '',
    useRle: true,
    maxEpochSize: 2048,
    pingIntMs: 10_000,
    pingTimeoutMs: 500,
    timeoutMs: 6000,
    koCount: 7,
    connectIntMs: 10_000,
    socketCheckTimeoutMs: 0,
    inFlightBytesMax: 64 * 1024 * 1024,
    order: {
      name: 'arbitration',
      writeNowAcks: false,
      coordinator: 'flag',
      extentBytes: 4 * 1024 * 1024,
      extentsMax: 1237,
    },
  })
  assert.deepEqual(volumes, [
    {
      volume: 0,
      alExtents: 1237,
      sizeSectors: 0,
      onIoError: 'detach',
      resyncRateMaxKib: 102_400,
      resyncRateMinKib: 250,
      resyncPace: { resyncRateKib: 250, cPlanAhead: 20, cDelayTarget: 10, cFillTarget: 100, cMaxRateKib: 102_400 },
    },
  ])
})

test('what the file says arrives in its unit', () => {
  const here = read(`net { protocol B; timeout 31; ping-int 2; ping-timeout 7; connect-int 3; socket-check-timeout 4;
      after-sb-0pri discard-least-changes; after-sb-1pri consensus; after-sb-2pri violently-as0p; rr-conflict call-pri-lost;
      cram-hmac-alg sha1; shared-secret s; always-asbp; }
    disk { fencing resource-only; size 1G; c-plan-ahead 0; resync-rate 7M; c-max-rate 8M; on-io-error pass_on; }
    options { on-no-data-accessible suspend-io; }
    handlers { fence-peer "true"; }`)
  const s = resourceSettings(here)
  assert.deepEqual(
    [s.protocol, s.timeoutMs, s.pingIntMs, s.pingTimeoutMs, s.connectIntMs, s.socketCheckTimeoutMs],
    ['B', 3100, 2000, 700, 3000, 400],
  )
  assert.deepEqual([s.afterSb0p, s.afterSb1p, s.afterSb2p, s.rrConflict, s.alwaysAsbp], [4, 7, 10, 9, true])
  assert.deepEqual([s.cramHmacAlg, s.sharedSecret, s.fencing, s.fencePeerHandler], ['sha1', 's', 'resource-only', true])
  assert.equal(s.onNoDataAccessible, 'suspend-io')
  const [volume] = s.volumes
  assert.deepEqual([volume?.sizeSectors, volume?.resyncRateMaxKib, volume?.onIoError], [2_097_152, 7168, 'pass_on'])
  assert.deepEqual(
    [volume?.resyncPace?.resyncRateKib, volume?.resyncPace?.cPlanAhead, volume?.resyncPace?.cMaxRateKib],
    [7168, 0, 8192],
  )
})

test('discard-node-NAME means local on that node and remote on the other', () => {
  const net = 'net { after-sb-0pri discard-node-alice; }'
  assert.equal(resourceSettings(read(net, 'alice')).afterSb0p, 5)
  assert.equal(resourceSettings(read(net, 'bob')).afterSb0p, 6)
})

test('refusals at connect', () => {
  assert.equal(refusalOf(''), undefined)
  assert.equal(refusalOf('protocol C; allow-two-primaries;'), undefined)
  assert.equal(refusalOf('protocol B; allow-two-primaries;'), 139)
  assert.equal(refusalOf('protocol A; fencing resource-and-stonith;'), 154)
  assert.equal(refusalOf('protocol B; fencing resource-and-stonith;'), undefined)
  assert.equal(refusalOf('cram-hmac-alg rot13;'), 120)
  assert.equal(refusalOf('cram-hmac-alg crc32c;'), 121)
  assert.equal(refusalOf('data-integrity-alg rot13;'), 141)
  assert.equal(refusalOf('data-integrity-alg crc32c;'), undefined)
  assert.equal(refusalOf('csums-alg rot13;'), 144)
  assert.equal(refusalOf('verify-alg rot13;'), 146)
})

test('the order of writes; who coordinates is said as each host sees it', () => {
  const net = `net { protocol C; allow-two-primaries; global-write-order auto; write-now-acks yes; coordinator bob;
    dl-extent-size 1M; dl-extents 99; }`
  const order = { name: 'auto', writeNowAcks: true, extentBytes: 1024 * 1024, extentsMax: 99 }
  assert.deepEqual(resourceSettings(read(net, 'alice')).order, { ...order, coordinator: 'peer' })
  assert.deepEqual(resourceSettings(read(net, 'bob')).order, { ...order, coordinator: 'local' })
})

test('refused at connect: an order without protocol C', () => {
  const problem = (net: string) => connectProblem(read(`net { ${net} }`).resource, new SystemDigests())
  assert.deepEqual(
    problem('protocol B; global-write-order coordinator;')?.detail,
    'global-write-order coordinator needs protocol C',
  )
  assert.equal(problem('protocol C; global-write-order coordinator;'), undefined)
})
