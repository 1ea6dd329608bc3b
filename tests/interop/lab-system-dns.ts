import { existsSync, realpathSync } from 'node:fs'
import path from 'node:path'
import { programFile } from './lab-flow.ts'
import { type Lab, type LabProcess, runOk, runProgram, type RunResult } from './lab-process.ts'

/** What the system asks before any mesh. */
export const OFFICE_SERVER = '192.0.2.53'

// /run is empty and /etc a copy: nothing outside is touched.
const PLACES = `set -e
mount -t tmpfs -o mode=755 tmpfs /run
cp -a /etc /run/etc-copy
mount --bind /run/etc-copy /etc
rm -f /etc/resolv.conf`

// Unpacked and not installed, it must be told where its parts are.
const RESOLVCONF = (files: string): string => `${PLACES}
cp -r ${files} /run/openresolv
sed -i 's,^LIBEXECDIR=.*,LIBEXECDIR=/run/openresolv/lib/resolvconf,' /run/openresolv/sbin/resolvconf
echo 'list_resolv="/run/openresolv/sbin/resolvconf -l"' > /etc/resolvconf.conf
mkdir -p /run/bin
ln -s /run/openresolv/sbin/resolvconf /run/bin/resolvconf
printf 'nameserver ${OFFICE_SERVER}\\nsearch office.example\\n' | /run/bin/resolvconf -a eth0
echo ready
exec sleep infinity`

const RESOLVED = (files: string): string => `${PLACES}
mkdir -p /run/dbus /run/systemd /run/bin
cp -r ${files}/usr/share/dbus-1/system.d ${files}/usr/share/dbus-1/system-services /etc/dbus-1/
ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
getent passwd systemd-resolve > /dev/null || echo 'systemd-resolve:x:996:996::/:/usr/sbin/nologin' >> /etc/passwd
getent group systemd-resolve > /dev/null || echo 'systemd-resolve:x:996:' >> /etc/group
ln -s ${files}/usr/bin/resolvectl /run/bin/resolvectl
echo ready
exec sleep infinity`

/** A place whose name servers are set by a real program: a mount namespace of its own on the network of a network namespace. */
export class NamePlace {
  readonly #lab: Lab
  readonly #pid: number

  private constructor(lab: Lab, pid: number) {
    this.#lab = lab
    this.#pid = pid
  }

  static async make(lab: Lab, netns: string, manager: 'resolvconf' | 'resolved'): Promise<NamePlace> {
    const files = path.join(realpathSync(programFile(manager === 'resolved' ? 'systemd-resolved' : 'resolvconf')), manager === 'resolved' ? '../../..' : '../..')
    const holder = lab.start(`places of ${manager}`, 'ip', ['netns', 'exec', netns, 'unshare', '-m', '--propagation', 'private', 'sh', '-c', manager === 'resolved' ? RESOLVED(files) : RESOLVCONF(files)])
    await lab.until('the places are ready', () => {
      holder.mustLive()
      return /^ready$/m.test(holder.log)
    })
    const place = new NamePlace(lab, holder.pid ?? 0)
    if (manager === 'resolved') await place.#startResolved(files)
    return place
  }

  async #startResolved(files: string): Promise<void> {
    this.start('dbus-daemon', 'dbus-daemon', ['--system', '--nofork', '--nopidfile'])
    await this.#lab.until('the bus is there', async () => (await this.run('test', '-S', '/run/dbus/system_bus_socket')).status === 0)
    this.start('systemd-resolved', `${files}/lib/systemd/systemd-resolved`, [])
    await this.#lab.until('systemd-resolved answers', async () => (await this.run('resolvectl', 'status')).status === 0)
  }

  /** Starts a program there. */
  start(name: string, file: string, args: readonly string[]): LabProcess {
    return this.#lab.start(name, 'nsenter', [...this.#entrance(), file, ...args])
  }

  run(file: string, ...args: readonly string[]): Promise<RunResult> {
    return runProgram('nsenter', [...this.#entrance(), file, ...args])
  }

  /** What a program says that must succeed. */
  ask(file: string, ...args: readonly string[]): Promise<string> {
    return runOk('nsenter', [...this.#entrance(), file, ...args])
  }

  /** Addresses of a name by the C library there, as any program of the system asks for them. */
  async lookUp(name: string): Promise<string> {
    return (await this.run('getent', 'ahostsv4', name)).out.split(/\s/)[0] ?? ''
  }

  #entrance(): readonly string[] {
    return ['-t', String(this.#pid), '-n', '-m', '--', 'env', `PATH=/run/bin:${process.env['PATH'] ?? ''}`]
  }
}

/** Why there can be no such place; `undefined` when there can. */
export function whyNoNamePlace(manager: 'resolvconf' | 'resolved'): string | undefined {
  const file = programFile(manager === 'resolved' ? 'systemd-resolved' : 'resolvconf')
  return existsSync(file) ? undefined : `${path.basename(file)} is not installed`
}
