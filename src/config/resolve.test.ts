// Goal: effective values, hosts and our own options of a resource. Method: small files, one fact each; precedence as
// config-and-tools.md 1.5 has it and drbdadm-84 shows it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryFiles } from '../../test/support/config-files.ts'
import {
  type Configuration,
  exportName,
  loadConfiguration,
  missingLocalAddress,
  type Resource,
  usableResource,
} from './index.ts'

const VOLUME = 'device /dev/drbd1; disk /dev/vg/r0; meta-disk internal;'
const HOSTS = 'on alice { address 10.0.0.1:7789; } on bob { address 10.0.0.2:7789; }'
const NUMBERED = 'on alice { node-id 0; address 10.0.0.1:7789; } on bob { node-id 1; address 10.0.0.2:7789; }'

function load(text: string, hostName = 'alice', localAddresses: string[] = []): Configuration {
  return loadConfiguration('c.conf', memoryFiles({ 'c.conf': text }), { hostName, localAddresses })
}

function only(body: string, before = '', hostName = 'alice', localAddresses: string[] = []): Resource {
  const resource = load(`${before}\nresource r0 { ${body} }`, hostName, localAddresses).resources.get('r0')
  assert.ok(resource)
  return resource
}

const disk = (resource: Resource) => resource.local?.volumes[0]?.diskOptions

test('every option has its default, and explicit is empty', () => {
  const { net, options, startup, local, coprime, handlers } = only(`${VOLUME}${HOSTS}`)
  assert.deepEqual(
    [net.protocol, net.pingIntSeconds, net.pingTimeoutDeciseconds, net.timeoutDeciseconds, net.koCount, net.useRle],
    ['C', 10, 5, 60, 7, true],
  )
  const volume = local?.volumes[0]
  assert.deepEqual(
    [volume?.diskOptions.alExtents, volume?.diskOptions.cMaxRateKibPerSecond, volume?.diskOptions.onIoError],
    [1237, 102_400, 'detach'],
  )
  assert.equal(options.onNoDataAccessible, 'io-error')
  assert.deepEqual(startup.becomePrimaryOn, [])
  assert.equal(coprime.globalWriteOrder, 'arbitration')
  assert.deepEqual([coprime.dlExtentSizeBytes, coprime.dlExtents, coprime.inFlightMaxBytes], [4 << 20, 1237, 64 << 20])
  assert.deepEqual([coprime.nbd.listen, coprime.nbd.exportName, coprime.nbd.maxConnections], [[], 'r0', 64])
  assert.equal(handlers.size, 0)
  for (const { explicit } of [net, options, startup, coprime, coprime.nbd]) assert.equal(explicit.size, 0)
})

test('explicit tells how and where an option was set', () => {
  const { net } = only(`${VOLUME}${HOSTS}\n  net { ping-int 010; no-tcp-cork; }`)
  assert.equal(net.pingIntSeconds, 10)
  assert.deepEqual([...net.explicit.keys()], ['pingIntSeconds', 'tcpCork'])
  const setting = net.explicit.get('pingIntSeconds')
  assert.equal(setting?.spelling, '010')
  assert.deepEqual(setting?.position, { file: 'c.conf', line: 3, column: 9 })
})

test('hosts: addresses, volumes, metadata', () => {
  const { local, peer } = only(`
    volume 1 { device /dev/drbd_x minor 2; disk /dev/b; meta-disk /dev/md[3]; }
    volume 0 { device drbd1; disk /dev/a; meta-disk internal; }
    on bob { volume 1 { device minor 7; flexible-meta-disk /dev/mx; } address ipv6 [FD01::1]:7790; }
    on alice { address 010.0.0.1:07789; }`)
  assert.deepEqual([local?.hostName, local?.address], ['alice', { family: 'ipv4', host: '10.0.0.1', port: 7789 }])
  assert.deepEqual([peer?.hostName, peer?.address], ['bob', { family: 'ipv6', host: 'fd01::1', port: 7790 }])
  const facts = (section: typeof local) =>
    section?.volumes.map(({ number, device, minor, disk: path, metaDisk }) => ({
      number,
      device,
      minor,
      path,
      metaDisk,
    }))
  assert.deepEqual(facts(local), [
    { number: 0, device: '/dev/drbd1', minor: 1, path: '/dev/a', metaDisk: { kind: 'internal' } },
    {
      number: 1,
      device: '/dev/drbd_x',
      minor: 2,
      path: '/dev/b',
      metaDisk: { kind: 'external', path: '/dev/md', index: 3 },
    },
  ])
  assert.deepEqual(facts(peer)?.[1], {
    number: 1,
    device: '/dev/drbd_x', // the name stays, the number is the host's own
    minor: 7,
    path: '/dev/b',
    metaDisk: { kind: 'external', path: '/dev/mx', index: 'flexible' },
  })
})

test('who this host is', () => {
  const local = (names: string, hostName: string) =>
    only(`${VOLUME} on ${names} { address 10.0.0.1:1; } on zoe { address 10.0.0.2:1; }`, '', hostName).local?.hostName
  assert.equal(local('alice', 'alice'), 'alice')
  assert.equal(local('ALICE', 'alice'), 'ALICE')
  assert.equal(local('alice.example.com', 'alice'), 'alice.example.com')
  assert.equal(local('alice', 'alice.example.com'), 'alice')
  assert.equal(local('"a b" alice', 'alice'), 'alice')
  assert.equal(local('alicex', 'alice'), undefined)
  assert.equal(local('alice.b', 'alice.c'), undefined)
  const floating = `${VOLUME} floating 10.0.0.1:1; floating ipv6 [fd01::2]:1;`
  assert.equal(only(floating, '', 'x', ['fd01::2']).local?.hostName, 'fd01::2:1')
  assert.equal(only(floating, '', 'x', ['10.0.0.1']).peer?.hostName, 'fd01::2:1')
  assert.equal(only(floating, '', 'x').local, undefined)
})

test('net: connection over resource over common, option by option', () => {
  const common = 'common { net { ping-int 1; timeout 1; connect-int 1; } }'
  const { net } = only(
    `net { ping-int 2; timeout 2; } ${VOLUME}${NUMBERED} connection { host alice; host bob; net { ping-int 3; } }`,
    common,
  )
  assert.deepEqual([net.pingIntSeconds, net.timeoutDeciseconds, net.connectIntSeconds], [3, 2, 1])
})

test('a connection gives addresses', () => {
  const { local, peer } = only(`${VOLUME}${NUMBERED} connection { host alice port 7; host bob address 10.9.9.9:99; }`)
  assert.deepEqual([local?.address.host, local?.address.port], ['10.0.0.1', 7])
  assert.deepEqual([peer?.address.host, peer?.address.port], ['10.9.9.9', 99])
})

test('disk: the host’s volume, the resource, common, a volume at resource level', () => {
  const common = 'common { disk { al-extents 101; c-plan-ahead 1; c-min-rate 1; md-flushes no; } }'
  const options = disk(
    only(
      `disk { al-extents 102; c-plan-ahead 2; }
       volume 0 { ${VOLUME} disk { al-extents 103; c-plan-ahead 3; c-min-rate 3; resync-rate 3; } }
       on alice { volume 0 { disk { al-extents 104; } } address 10.0.0.1:1; } on bob { address 10.0.0.2:1; }`,
      common,
    ),
  )
  assert.deepEqual(
    [options?.alExtents, options?.cPlanAheadDeciseconds, options?.cMinRateKibPerSecond, options?.mdFlushes],
    [104, 2, 1, false],
  )
  assert.equal(options?.resyncRateKibPerSecond, 3)
})

test('the same option twice: last in net and in a host, first in the resource’s disk and in common', () => {
  const common = 'common { net { timeout 10; timeout 20; } handlers { fence-peer a; fence-peer b; } }'
  const resource = only(
    `${VOLUME} on alice { disk { c-min-rate 1; c-min-rate 2; } address 10.0.0.1:1; } on bob { disk { } address 10.0.0.2:1; }
     net { ping-int 3; ping-int 5; } disk { al-extents 100; al-extents 200; }`,
    common,
  )
  assert.deepEqual([resource.net.timeoutDeciseconds, resource.net.pingIntSeconds], [10, 5])
  assert.deepEqual([disk(resource)?.alExtents, disk(resource)?.cMinRateKibPerSecond], [100, 2])
  assert.equal(resource.handlers.get('fence-peer'), 'a')
  const twice = load(`resource r0 { ${VOLUME}${HOSTS} net { ping-int 3; ping-int 5; use-rle; use-rle yes; } }`).warnings
  assert.deepEqual(
    twice.filter(({ code }) => code === 'given-twice').map(({ message }) => message.split(':')[0]),
    ["'ping-int' is given twice with different values"],
  )
})

test('spellings of the past', () => {
  const resource = only(`protocol B; ${VOLUME}${HOSTS}
    syncer { rate 3M; verify-alg md5; cpu-mask 3; al-extents 257; } disk { no-md-flushes; } handlers { outdate-peer "x y"; }`)
  assert.equal(resource.net.protocol, 'B')
  assert.equal(resource.net.verifyAlg, 'md5')
  assert.equal(resource.options.cpuMask, '3')
  assert.deepEqual(
    [disk(resource)?.resyncRateKibPerSecond, disk(resource)?.alExtents, disk(resource)?.mdFlushes],
    [3072, 257, false],
  )
  assert.equal(resource.handlers.get('fence-peer'), 'x y')
})

test('discard-node-NAME is local or remote', () => {
  const text = `${VOLUME}${HOSTS} net { after-sb-0pri discard-node-alice; }`
  assert.equal(only(text).net.afterSb0pri, 'discard-local')
  assert.equal(only(text, '', 'bob').net.afterSb0pri, 'discard-remote')
})

test('fencing: net’s, or the strictest of the volumes', () => {
  const volumes = (first: string, second: string): string =>
    `volume 0 { ${VOLUME} disk { ${first} } } volume 1 { device minor 9; disk /dev/x; disk { ${second} } } ${HOSTS}`
  assert.equal(only(volumes('', '')).net.fencing, 'dont-care')
  assert.equal(only(volumes('', 'fencing resource-and-stonith;')).net.fencing, 'resource-and-stonith')
  assert.equal(only(volumes('fencing resource-only;', '')).net.fencing, 'resource-only')
  assert.equal(only(`net { fencing dont-care; } ${volumes('fencing resource-only;', '')}`).net.fencing, 'dont-care')
})

test('time-outs of startup are put in order', () => {
  const { startup } = only(`${VOLUME}${HOSTS} startup { wfc-timeout 50; outdated-wfc-timeout 70; }`)
  assert.deepEqual(
    [startup.wfcTimeoutSeconds, startup.degrWfcTimeoutSeconds, startup.outdatedWfcTimeoutSeconds],
    [50, 50, 50],
  )
})

test('our own options: skip block, resource, skip block’s common, common', () => {
  const before = `common { net { dl-extents 100; in-flight-max 2M; dl-extent-size 64K; } }
    skip coprime { common { in-flight-max 3M; dl-extent-size 128K; } r0 { dl-extent-size 1G; coordinator bob;
      nbd { listen unix "/run/a b"; listen tcp [::1]:10809; export-name x; } } }`
  const { coprime } = only(
    `${VOLUME}${HOSTS} options { dl-extent-size 256K; global-write-order coordinator; write-now-acks; nbd { listen tcp 127.0.0.1:1; max-connections 3; } }`,
    before,
  )
  assert.deepEqual(
    [coprime.dlExtents, coprime.inFlightMaxBytes, coprime.dlExtentSizeBytes, coprime.coordinator],
    [100, 3 << 20, 2 ** 30, 'bob'],
  )
  assert.deepEqual([coprime.globalWriteOrder, coprime.writeNowAcks], ['coordinator', true])
  assert.deepEqual(coprime.nbd.listen, [
    { kind: 'unix', path: '/run/a b' },
    { kind: 'tcp', host: '::1', port: 10_809 },
  ])
  assert.deepEqual([coprime.nbd.exportName, coprime.nbd.maxConnections], ['x', 3])
})

test('names of exports', () => {
  const two = only(`volume 0 { ${VOLUME} } volume 7 { device minor 9; disk /dev/x; } ${HOSTS}`)
  assert.deepEqual([exportName(two, 0), exportName(two, 7)], ['r0/0', 'r0/7'])
  assert.equal(exportName(only(`${VOLUME}${HOSTS}`), 0), 'r0')
})

test('what is correct and cannot be run is refused when it is used', () => {
  const refused = (text: string): string => {
    const configuration = load(text)
    assert.ok(configuration.resources.get('r0'))
    try {
      usableResource(configuration, 'r0')
    } catch (error) {
      assert.equal((error as { code: string }).code, 'E_CONFIG_UNSUPPORTED')
      return (error as Error).message
    }
    return 'used'
  }
  const r0 = (body: string): string => `resource r0 { ${body} }`
  assert.equal(refused(r0(`${VOLUME}${HOSTS}`)), 'used')
  assert.match(
    refused(r0('device minor 1; on alice { disk none; address 1.1.1.1:1; } on bob { disk /x; address 1.1.1.2:1; }')),
    /no disk/,
  )
  assert.match(refused(r0(`${VOLUME}${HOSTS} on carl { address 1.1.1.1:1; }`)), /2 peers/)
  assert.match(
    refused(r0(`${VOLUME} on alice { address 999.0.0.1:1; } on bob { address 1.1.1.1:1; }`)),
    /'999.0.0.1' is no ipv4/,
  )
  assert.match(refused(r0(`${VOLUME} on alice { address sdp 1.1.1.2:1; } on bob { address sdp 1.1.1.1:1; }`)), /sdp/)
  assert.match(refused(r0(`volume 70000 { ${VOLUME} } ${HOSTS}`)), /70000/)
  const low = `resource low { device minor 9; disk /y; on alice { address 1.1.1.1:1; } on bob { address 1.1.1.2:1; } }`
  const high = 'device minor 8; stacked-on-top-of low { address 1.1.1.3:1; } on carl { disk /z; address 1.1.1.4:1; }'
  assert.match(refused(`${low} ${r0(high)}`), /stacked/)
  const pair = `${VOLUME}${NUMBERED} on carl { node-id 2; address 1.1.1.1:1; }`
  assert.equal(refused(r0(`${pair} connection { host alice; host bob; } connection { host carl; host bob; }`)), 'used')
  assert.match(refused(r0(`${pair} connection-mesh { hosts alice bob carl; }`)), /2 peers/)
})

test('a resource that is not there, or not for this host', () => {
  const configuration = load(`resource data { ${VOLUME} ${HOSTS} }`, 'carl')
  assert.throws(() => usableResource(configuration, 'data'), {
    message: "c.conf:1: 'data' not defined in your config (for this host).",
    hint: "This host is 'carl'; the resource has sections for: alice, bob.",
    exitCode: 1,
  })
  assert.throws(() => usableResource(configuration, 'dat'), { hint: "Did you mean 'data'?" })
})

test('a resource whose volume is wrong in two places names the host', () => {
  assert.throws(() => only(`disk /x; meta-disk internal; ${HOSTS}`), {
    code: 'E_CONFIG_MISSING',
    message: "c.conf:2: in resource r0, on alice { ... }: 'device' keyword missing.",
  })
  assert.throws(
    () => only(`on alice { ${VOLUME} address 10.0.0.1:1; } on bob { volume 0 { ${VOLUME} } address 10.0.0.2:1; }`),
    {
      message: 'c.conf:2: in resource r0, on alice resp. bob: volume 0 must not be implicit on one but not the other',
    },
  )
})

test('uniqueness over resources', () => {
  const two = (first: string, second: string): string => `resource a { ${first} } resource b { ${second} }`
  const at = (minor: number, path: string, port: number, host = '10.0.0.1'): string =>
    `device minor ${minor}; disk ${path}; on alice { address ${host}:${port}; } on bob { address 10.0.0.2:${port}; }`
  assert.equal(load(two(at(1, '/a', 1), at(2, '/b', 2))).resources.size, 2)
  assert.throws(() => load(two(at(1, '/a', 1), at(1, '/b', 2))), /device-minor 'device-minor:alice:1'/)
  assert.throws(() => load(two(at(1, '/a', 1), at(2, '/a', 2))), /disk 'disk:alice:\/a'/)
  assert.throws(() => load(two(at(1, '/a', 1), at(2, '/b', 1))), /IP '10.0.0.1:1'/)
  assert.throws(() => load(two(at(1, '/a', 1, '127.0.0.1'), at(2, '/b', 1, '127.0.0.1'))), /IP 'alice:127.0.0.1:1'/)
  const loop = 'device minor 1; disk /a; on alice { address 127.0.0.1:1; } on bob { address 127.0.0.1:1; }'
  assert.equal(load(`resource a { ${loop} }`).resources.size, 1)
})

test('the local address must be on an interface', () => {
  const check = (text: string, ...addresses: string[]) => missingLocalAddress(load(text), new Set(addresses))?.message
  const text = `\nresource r0 {\n ${VOLUME}\n${HOSTS} }`
  assert.equal(check(text, '10.0.0.1'), undefined)
  assert.equal(check(text, '10.0.0.2'), 'c.conf:4: in resource r0, on alice:\n\tIP 10.0.0.1 not found on this host.')
  assert.equal(check(`global { disable-ip-verification; } ${text}`), undefined)
})

test('names that nothing has', () => {
  const { warnings } = load(
    `resource r0 { ${VOLUME}${HOSTS} disk { resync-after gone; } startup { become-primary-on carl; } }`,
  )
  const unknown = warnings.filter(({ code }) => code === 'unknown-name').map(({ message }) => message)
  assert.deepEqual(unknown, [
    "in resource r0: resource 'gone' mentioned in 'resync-after' option is not known.",
    "in resource r0: become-primary-on contains 'carl', which is not named with the 'on' sections.",
  ])
})
