"""OpenStack Swift with its S3 API for tests: one proxy, account, container and object server each, on all addresses.

Usage: swift_server.py DIRECTORY PORT LISTED, as root. DIRECTORY is on a file system with extended attributes; what an
earlier run left there is served on. Uses PORT to PORT + 3; PORT speaks S3, for user "tester:tester" with secret
"testing" in region us-east-1, and lists at most LISTED names at once. Prints the process ids, the proxy's first, when
all of them listen, and runs until it is killed; the servers end with it.
"""
import ctypes
import os
import signal
import socket
import sys
import time

import swift.common.utils

DIRECTORY, PORT, LISTED = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# Before the modules that read it when they are imported.
swift.common.utils.SWIFT_CONF_FILE = os.path.join(DIRECTORY, "swift.conf")
# The servers do it, too, when it takes them seconds: it looks at every object there is.
swift.common.utils.eventlet_monkey_patch()

SERVERS = ("proxy", "account", "container", "object")
COMMON = """[DEFAULT]
bind_ip = 0.0.0.0
bind_port = {port}
user = root
swift_dir = {directory}
devices = {directory}
mount_check = false
fallocate_reserve = 0
workers = 0
"""
STORAGE = COMMON + """[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
node_timeout = 60
conn_timeout = 10
"""
PROXY = COMMON + """[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
error_suppression_interval = 0
node_timeout = 60
recoverable_node_timeout = 60
conn_timeout = 10
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
max_bucket_listing = {listed}
storage_domain = localhost
[filter:tempauth]
use = egg:swift#tempauth
user_tester_tester = testing .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def write(name, text):
    with open(os.path.join(DIRECTORY, name), "w") as file:
        file.write(text)


def configure():
    from swift.common.ring import RingBuilder

    os.makedirs(os.path.join(DIRECTORY, "disk"), exist_ok=True)
    write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = test\n"
                        "[storage-policy:0]\nname = only\ndefault = yes\n")
    for offset, name in enumerate(SERVERS):
        template = PROXY if name == "proxy" else STORAGE
        write(name + ".conf", template.format(name=name, port=PORT + offset, directory=DIRECTORY, listed=LISTED))
        if name != "proxy":
            ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
            ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "port": PORT + offset,
                          "device": "disk"})
            ring.rebalance()
            ring.get_ring().save(os.path.join(DIRECTORY, name + ".ring.gz"))


def end_with_parent(parent):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def serve(name):
    from swift.common.wsgi import run_wsgi

    sys.exit(run_wsgi(os.path.join(DIRECTORY, name + ".conf"), name + "-server"))


def wait_until_listening(port, deadline):
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("port %d is not open" % port)
            time.sleep(0.02)


def main():
    configure()
    import swift.common.wsgi  # noqa: F401  once, for all
    import swift.proxy.server, swift.account.server, swift.container.server, swift.obj.server  # noqa: F401,E401
    parent, children = os.getpid(), []
    for name in SERVERS:
        child = os.fork()
        if child == 0:
            end_with_parent(parent)
            serve(name)
        children.append(child)
    for offset in range(len(SERVERS)):
        wait_until_listening(PORT + offset, time.monotonic() + 60)
    print(*children, flush=True)
    signal.pause()


main()
