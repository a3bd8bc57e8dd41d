// Goal: the text of `dump` (config-and-tools.md 3.8). Method: one resource with everything that has a form of its own. That
// it equals drbdadm's letter by letter, and reads back, is shown over the corpus elsewhere.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryFiles } from '../../test/support/config-files.ts'
import { type Configuration, dumpConfiguration, dumpResource, loadConfiguration } from './index.ts'

const load = (text: string): Configuration =>
  loadConfiguration('/etc/drbd.conf', memoryFiles({ '/etc/drbd.conf': text }), { hostName: 'alice' })

const TEXT = `global { disable-ip-verification; usage-count no; }
resource r0 {
  net { cram-hmac-alg sha1; shared-secret s3cret; no-tcp-cork; ping-int 03; nbd { listen unix "/run/a b"; } }
  disk { resync-rate 10M; }
  device /dev/drbd1; disk /dev/vg/r0;
  on alice { meta-disk internal; address 10.0.0.1:7789; } on "0" { meta-disk "/dev/m d"[3]; address ipv6 [fd01::2]:7789; }
  handlers { fence-peer "a \\"b\\" \\\\ c"; split-brain net; }
  options { dl-extents 64; coordinator "0"; }
}
resource away { device minor 5; disk /dev/x; on carl { address 10.0.0.3:1; } on dave { address 10.0.0.4:1; } }
skip coprime { r0 { nbd { export-name "my disk"; listen tcp [::1]:10809; } } }
`

const EXPECTED = `# /etc/drbd.conf
global {
    disable-ip-verification;
    usage-count no;
}

# resource r0 on alice: not ignored, not stacked
# defined at /etc/drbd.conf:2
resource r0 {
    on alice {
        device           /dev/drbd1 minor 1;
        disk             /dev/vg/r0;
        meta-disk        internal;
        address          ipv4 10.0.0.1:7789;
    }
    on "0" {
        device           /dev/drbd1 minor 1;
        disk             /dev/vg/r0;
        meta-disk        "/dev/m d" [3];
        address          ipv6 [fd01::2]:7789;
    }
    net {
        cram-hmac-alg    sha1;
        shared-secret    s3cret;
        tcp-cork          no;
        ping-int          03;
    }
    disk {
        resync-rate      10M;
    }
    handlers {
        fence-peer       "a \\"b\\" \\\\ c";
        split-brain      "net";
    }
}

# resource away on alice: ignored, not stacked
# defined at /etc/drbd.conf:10
resource away {
    on carl {
        device           minor 5;
        disk             /dev/x;
        meta-disk        internal;
        address          ipv4 10.0.0.3:1;
    }
    on dave {
        device           minor 5;
        disk             /dev/x;
        meta-disk        internal;
        address          ipv4 10.0.0.4:1;
    }
}

skip coprime {
    r0 {
        dl-extents       64;
        coordinator      0;
        nbd {
            listen       tcp [::1]:10809;
            export-name  "my disk";
        }
    }
}
`

test('the whole configuration', () => {
  assert.equal(dumpConfiguration(load(TEXT)), EXPECTED)
})

test('read again it says the same', () => {
  assert.equal(dumpConfiguration(load(EXPECTED)).replace(/:\d+$/gm, ''), EXPECTED.replace(/:\d+$/gm, ''))
})

test('one resource', () => {
  const configuration = load(TEXT)
  const away = configuration.resources.get('away')
  assert.ok(away)
  const dump = dumpResource(configuration, away)
  assert.ok(dump.startsWith('# resource away on alice: ignored'))
  assert.doesNotMatch(dump, /r0|global|skip/)
})
