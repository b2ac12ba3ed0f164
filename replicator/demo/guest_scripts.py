"""What runs inside the demonstration's guest: /init and the services it starts.

/init (busybox sh) loads the drivers, gives eth0 the address from the kernel command line, starts redis-server and
becomes the services program (perl, because Debian's busybox has no UDP server). Where QEMU gives the guest a channel for
one, the guest agent runs as well. The services program:

- UDP 7007, the counter: each datagram is answered with `TOTAL SEEN PAYLOAD`, TOTAL counting all requests and SEEN
  those with this very payload. A request that was executed twice shows.
- UDP 7008, commands: `ping`, `poweroff`, `reboot`, `crash` (sysrq panic), `dirty MIB` (write so much memory).
  The answer is `ok COMMAND` or `unknown COMMAND`, sent before the command is carried out.
- loads, by UDP 7008 too: `work KIND` starts one in the place of any before (`compute`: arithmetic; `write`: scattered
  words all over 16 MiB; `build`: text taken apart and files written and read, as a compiler does), `rest` ends it, and
  `worked` is answered with `N worked`, N units of work done.
- UDP 7006, the clocks: each datagram is answered with `REALTIME MONOTONIC PAYLOAD`, the clocks in nanoseconds.
- when redis answers: the line READY_MARK on the console and as one UDP broadcast to port 7009.
"""

from __future__ import annotations

CLOCK_PORT = 7006
COUNTER_PORT = 7007
COMMAND_PORT = 7008
READY_PORT = 7009
REDIS_PORT = 6379
READY_MARK = "replicator-guest-ready"

#: Order matters: each module uses symbols of those before it.
REQUIRED_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_mmio",
    "failover", "net_failover", "virtio_net", "virtio_blk", "virtio_console",
)  # fmt: skip
#: Loaded where the kernel has them: tell QEMU of a panic (mmio drives the ISA device too, by its ACPI entry).
OPTIONAL_MODULES = ("pvpanic", "pvpanic-mmio", "pvpanic-pci")

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod /modules/$module || echo "replicator-guest: cannot load $module"
done
address=
for word in $(cat /proc/cmdline); do
    case $word in replicator.ip=*) address=${word#replicator.ip=} ;; esac
done
ip link set lo up
ip link set eth0 up
[ -n "$address" ] && ip addr add "$address" broadcast + dev eth0
redis-server --bind 0.0.0.0 --protected-mode no --port @REDIS_PORT@ --save '' --appendonly no \\
    --dir /tmp --tcp-keepalive 0 --daemonize no --logfile /tmp/redis.log &
for device in /sys/bus/virtio/drivers/virtio_console/virtio*; do
    [ -e "$device" ] && qemu-ga --retry-path --method virtio-serial --path /dev/vport${device##*virtio}p1 \\
        --statedir /tmp --pidfile /tmp/qemu-ga.pid --logfile /tmp/qemu-ga.log &
done
export address
exec perl /services.pl
"""

SERVICES = r"""use strict;
my ($af_inet, $stream, $dgram, $sol_socket, $so_broadcast) = (2, 1, 2, 1, 6);
my (%seen, $total, $ballast, $worker, $arena);
$total = 0;
$SIG{CHLD} = 'IGNORE';
$| = 1;

sub address { my ($port, @octets) = @_; return pack('S n C4 x8', $af_inet, $port, @octets); }

sub udp_server {
    my ($port) = @_;
    socket(my $socket, $af_inet, $dgram, 0) or die "socket: $!";
    bind($socket, address($port, 0, 0, 0, 0)) or die "bind $port: $!";
    return $socket;
}

sub wait_for_redis {
    while (1) {
        socket(my $redis, $af_inet, $stream, 0) or die "socket: $!";
        if (connect($redis, address(@REDIS_PORT@, 127, 0, 0, 1))) {
            syswrite($redis, "PING\r\n");
            sysread($redis, my $reply, 64);
            return if defined $reply and $reply eq "+PONG\r\n";
        }
        select(undef, undef, undef, 0.02);
    }
}

sub announce {
    my ($socket) = @_;
    print "@READY_MARK@\n";
    return unless ($ENV{address} // '') =~ m{^(\d+)\.(\d+)\.(\d+)\.(\d+)/(\d+)$};
    my $net = ($1 << 24) | ($2 << 16) | ($3 << 8) | $4;
    my $broadcast = $net | ((1 << (32 - $5)) - 1);
    setsockopt($socket, $sol_socket, $so_broadcast, pack('l', 1));
    send($socket, "@READY_MARK@\n", 0, address(@READY_PORT@, unpack('C4', pack('N', $broadcast))));
}

sub count {
    my ($socket) = @_;
    my $peer = recv($socket, my $request, 2048, 0);
    return unless defined $peer;
    $total++;
    $seen{$request}++;
    send($socket, "$total $seen{$request} $request", 0, $peer);
}

# clock_gettime is system call 228; clock 0 is CLOCK_REALTIME, 1 is CLOCK_MONOTONIC.
sub read_clock {
    my ($clock) = @_;
    my $time = pack('q2', 0, 0);
    syscall(228, $clock, $time);
    my ($seconds, $nanoseconds) = unpack('q2', $time);
    return $seconds * 1_000_000_000 + $nanoseconds;
}

sub tell_time {
    my ($socket) = @_;
    my $peer = recv($socket, my $request, 2048, 0);
    return unless defined $peer;
    send($socket, read_clock(0) . ' ' . read_clock(1) . " $request", 0, $peer);
}

sub panic {
    open(my $trigger, '>', '/proc/sysrq-trigger') or return;
    syswrite($trigger, 'c');
}

sub dirty { my ($mib) = @_; $ballast = chr($total++ % 251 + 1) x ($mib << 20); }

sub compute {
    my ($unit) = @_;
    my $x = $unit;
    $x = ($x * 1103515245 + 12345) & 0x7fffffff for 1 .. 5000;
    return $x;
}

sub write_words {
    my ($unit) = @_;
    $arena //= "\0" x (16 << 20);
    substr($arena, (($unit * 64 + $_) * 1237 % 4096) << 12, 8) = pack('Q', $unit) for 0 .. 63;
}

sub build {
    my ($unit) = @_;
    my $source = join("\n", map { "int f$_(int a) { return a * $_ + " . ($unit % 97 + 1) . '; }' } 1 .. 200);
    my %symbols;
    $symbols{$1}++ while $source =~ /(\w+)/g;
    my $path = '/tmp/object.' . $unit % 32;
    open(my $object, '>', $path) or return;
    print $object $source, join(',', sort keys %symbols);
    close($object);
    open($object, '<', $path) or return;
    local $/;
    return length(<$object>);
}

sub rest { kill('KILL', $worker) if $worker; $worker = 0; }

sub work {
    my ($kind) = @_;
    my %kinds = (compute => \&compute, write => \&write_words, build => \&build);
    my $unit = $kinds{$kind} or return;
    rest();
    open(my $tally, '>', '/tmp/worked') or return;
    $worker = fork();
    return if $worker;
    for (my $done = 0; ; $done++) {
        sysseek($tally, 0, 0);
        syswrite($tally, sprintf('%020d', $done));
        $unit->($done);
    }
}

sub worked {
    open(my $tally, '<', '/tmp/worked') or return 0;
    sysread($tally, my $done, 20);
    return ($done || 0) + 0;
}

sub obey {
    my ($socket) = @_;
    my $peer = recv($socket, my $command, 2048, 0);
    return unless defined $peer;
    chomp $command;
    my %actions = (
        ping     => sub { },
        poweroff => sub { system('/bin/busybox', 'poweroff', '-f') },
        reboot   => sub { system('/bin/busybox', 'reboot', '-f') },
        crash    => \&panic,
        dirty    => \&dirty,
        work     => \&work,
        rest     => \&rest,
        worked   => sub { },
    );
    my ($verb, $argument) = split ' ', $command;
    my $action = $actions{$verb // ''};
    my $answer = !$action ? 'unknown' : $verb eq 'worked' ? worked() : 'ok';
    send($socket, "$answer $command\n", 0, $peer);
    $action->($argument // 0) if $action;
}

my %servers = (@CLOCK_PORT@ => \&tell_time, @COUNTER_PORT@ => \&count, @COMMAND_PORT@ => \&obey);
my %sockets = map { $_ => udp_server($_) } keys %servers;
wait_for_redis();
announce($sockets{@COMMAND_PORT@});
while (1) {
    my $readable = '';
    vec($readable, fileno($_), 1) = 1 for values %sockets;
    select($readable, undef, undef, undef);
    for my $port (keys %sockets) {
        $servers{$port}->($sockets{$port}) if vec($readable, fileno($sockets{$port}), 1);
    }
}
"""


def fill_in(script: str) -> str:
    """A script with the ports and marks of this file in place of its @NAMES@."""
    values = {
        "@REDIS_PORT@": REDIS_PORT, "@CLOCK_PORT@": CLOCK_PORT, "@COUNTER_PORT@": COUNTER_PORT,
        "@COMMAND_PORT@": COMMAND_PORT, "@READY_PORT@": READY_PORT, "@READY_MARK@": READY_MARK,
    }  # fmt: skip
    for name, value in values.items():
        script = script.replace(name, str(value))
    return script
