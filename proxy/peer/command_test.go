package peer

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// What is shown of a command line.

func TestACommandIsItsProgramAndItsScript(t *testing.T) {
	for _, tt := range []struct{ exe, line, want string }{
		{"python3.11", "python3 leak.py --redis redis://:s3cret@h", "python3 leak.py"},
		{"python3.11", "/usr/bin/python3 -u -W ignore -Xdev /srv/shop/manage.py runworker", "python3 /srv/shop/manage.py"},
		{"python3.11", "python3 -m celery -A app worker", "python3 celery"},
		{"python3.11", "python3 -um celery -A app worker", "python3 celery"},
		{"python3.11", "python3 /usr/local/bin/gunicorn app:app", "python3 /usr/local/bin/gunicorn"},
		{"python3.11", "gunicorn:_master_[app:app]", "gunicorn"},
		{"pypy3", "pypy3 x.py", "pypy3 x.py"},
		{"java", "/opt/jdk/bin/java -Xmx1g -Dredis.password=s3cret -jar app.jar --password=s3cret", "java app.jar"},
		{"java", "java -cp lib/a.jar:lib/b.jar com.acme.Main s3cret", "java com.acme.Main"},
		{"java", "java --module-path mods -m com.acme/com.acme.Main s3cret", "java com.acme/com.acme.Main"},
		{"node", "node server.js", "node server.js"},
		{"node", "node --require ./trace.js -r x --max-old-space-size=4096 dist/server.js s3cret", "node dist/server.js"},
		{"ruby3.2", "ruby -rbundler/setup -I lib -W0 bin/sidekiq s3cret", "ruby bin/sidekiq"},
		{"ruby", "puma_6.4_(tcp://0.0.0.0:9292)_[shop]", "puma"},
		{"perl", "perl -w -Mstrict -I lib -l job.pl s3cret", "perl job.pl"},
		{"php8.2", "php -d memory_limit=1G artisan queue:work", "php artisan"},
		{"php", "php -f job.php s3cret", "php job.php"},
		{"bash", "-bash", "bash"},
		{"bash", "bash -eo pipefail ./run.sh s3cret", "bash ./run.sh"},
		{"busybox", "sh /entrypoint.sh s3cret", "sh /entrypoint.sh"},
		{"deno", "deno run -A -r main.ts s3cret", "deno main.ts"},
		{"bun", "bun run dev", "bun dev"},
		{"dotnet", "dotnet exec --runtimeconfig a.json app.dll s3cret", "dotnet app.dll"},
		{"shop", "/srv/shop s3cret.py -a s3cret /etc/shop.conf", "shop"},
		{"redis-cli", "redis-cli -a s3cret GET k", "redis-cli"},
		{"postgres", "postgres:_shop_10.0.0.5(4242)_idle", "postgres"},
		{"kworker/0:1", "", "kworker/0:1"},
		{"python3", "python3 /srv/café/app.py", "python3 /srv/café/app.py"},
	} {
		line := strings.ReplaceAll(strings.ReplaceAll(tt.line, " ", "\x00"), "_", " ") + "\x00"
		if strings.Contains(tt.line, "_limit") {
			line = strings.ReplaceAll(line, "memory limit", "memory_limit")
		}
		if got := command(tt.exe, line); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestASecretIsNeverShown(t *testing.T) {
	for _, line := range []string{
		"python3 -c s3cret", "python3 -uc s3cret", "python3 -cs3cret x.py", "python3 -ms3cret x", "python3 -mtool s3cret",
		"python3 - s3cret", "python3 redis://:s3cret@h/0", "python3 --token=s3cret", "python3 password=s3cret",
		"sh -c s3cret", "bash -lc s3cret", "bash -s s3cret", "bash --rcfile x -ec s3cret",
		"node -e s3cret", "node -pe s3cret", "node --eval s3cret", "node --eval=s3cret x", "node --print s3cret",
		"ruby -e s3cret", "ruby -ne s3cret", "perl -e s3cret", "perl -lane s3cret", "perl -i.bak -pe s3cret",
		"perl -l x.pl s3cret", "ruby -W x.rb s3cret", "ruby -We s3cret", "perl -l0e s3cret", "php -r s3cret", "php -fx.php s3cret", "php -nr s3cret", "lua -e s3cret",
		"java @s3cret", "java @opts s3cret", "java --module=a/b s3cret", "java -Dp=s3cret A", "java -p s3cret A",
		"deno run -r x.ts s3cret", "deno eval s3cret", "bun -e s3cret", "dotnet run s3cret",
		"shop -a s3cret", "shop s3cret", "shop s3cret.py",
	} {
		words := strings.Fields(line)
		if got := command(words[0], strings.Join(words, "\x00")+"\x00"); strings.Contains(got, "s3cret") {
			t.Errorf("%s is shown as %q", line, got)
		}
	}
}

func TestACommandIsShortAndCanBePrinted(t *testing.T) {
	long := "python3\x00/srv/" + strings.Repeat("é/", 200) + "leak.py\x00"
	if got := command("python3", long); len(got) > maxCommand || !strings.HasSuffix(got, "é/leak.py") || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
	if got, want := command("x", "/bin/a\nb\x1b[31m\u202e\xff\x00"), "a?b?[31m??"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := command("python3", "python3\x00a\nb.py\x00"); got != "python3" {
		t.Errorf("%q", got)
	}
	if got := command("x", strings.Repeat("é", 100)); len(got) > maxExecutable || !utf8.ValidString(got) {
		t.Errorf("%q", got)
	}
}

const id = "3f4e1a2b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f607"

func TestAContainerIsKnownByItsControlGroup(t *testing.T) {
	other := strings.Repeat("0", 64)
	for _, tt := range []struct{ name, cgroup, want string }{
		{"docker v1", "12:pids:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/containerd.service\n", "ID"},
		{"docker v2", "0::/system.slice/docker-ID.scope\n", "ID"},
		{"docker with its own init", "0::/system.slice/docker-ID.scope/init.scope\n", "ID"},
		{"docker in docker", "11:memory:/docker/" + other + "/docker/ID\n", "ID"},
		{"kubernetes v1", "11:memory:/kubepods/burstable/pod5b3e1c2a-8f0d-4f6f-9a43-1c0d2d3b4a5e/ID\n", "ID"},
		{"containerd v2", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod5b3e_1c2a.slice/cri-containerd-ID.scope\n", "ID"},
		{"containerd mixed", "1:cpu:/system.slice/containerd.service/kubepods-besteffort-pod5b3e.slice:cri-containerd:ID\n", "ID"},
		{"cri-o", "0::/kubepods.slice/kubepods-pod5b3e.slice/crio-ID.scope/container\n", "ID"},
		{"another container seen from ours", "0::/../cri-containerd-ID.scope\n", "ID"},
		{"podman", "0::/machine.slice/libpod-ID.scope/container\n", "ID"},
		{"podman of a user", "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope\n", "ID"},
		{"podman's watcher", "0::/machine.slice/libpod-conmon-ID.scope\n", ""},
		{"ecs", "9:cpu:/ecs/shop/4c1b/ID\n", "ID"},
		{"a service", "0::/system.slice/redis.service\n", ""},
		{"a session", "0::/user.slice/user-1000.slice/session-3.scope\n", ""},
		{"our own", "0::/\n", ""},
		{"short", "0::/docker/3f4e1a2b5c6d\n", ""},
		{"no line feed", "0::/docker/ID", "ID"},
		{"nothing", "", ""},
	} {
		want := strings.ReplaceAll(tt.want, "ID", id[:12])
		if got := container(strings.ReplaceAll(tt.cgroup, "ID", id), ""); got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

func TestAContainerIsKnownByTheFilesThatAreMountedIntoIt(t *testing.T) {
	for _, tt := range []struct{ name, mounts, want string }{
		{"docker", "730 719 254:1 /var/lib/docker/containers/ID/hostname /etc/hostname rw - ext4 /dev/vda1 rw\n", "ID"},
		{"podman", "812 790 0:25 /containers/overlay-containers/ID/userdata/.containerenv /run/.containerenv rw - tmpfs t rw\n", "ID"},
		{"the host of them", "95 29 0:52 / /var/lib/docker/containers/ID/mounts/shm rw - tmpfs shm rw\n", ""},
		{"a pod's sandbox", "730 719 254:1 /io.containerd.grpc.v1.cri/sandboxes/ID/hostname /etc/hostname rw - ext4 d rw\n", ""},
		{"a volume", "730 719 254:1 /var/lib/docker/containers/ID/x /data rw - ext4 /dev/vda1 rw\n", ""},
	} {
		want := strings.ReplaceAll(tt.want, "ID", id[:12])
		if got := container("0::/\n", strings.ReplaceAll(tt.mounts, "ID", id)); got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

func FuzzProcess(f *testing.F) {
	f.Add("python3.11", "python3\x00-W\x00ignore\x00leak.py\x00", "0::/docker/"+id+"\n", "1 2 3 /containers/"+id+"/x /etc/hosts")
	f.Add("java", "java\x00-jar\x00app.jar\x00", "0::/machine.slice/libpod-"+id+".scope/container\n", "")
	f.Add("bash", "-bash\x00-ec\x00x\x00", "1:a:b:c", "a b c d e")
	f.Fuzz(func(t *testing.T, exe, line, cgroup, mounts string) {
		c := command(clean(exe, maxExecutable), line)
		if len(c) > maxCommand || !utf8.ValidString(c) {
			t.Fatalf("%q", c)
		}
		for _, r := range c {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q", c)
			}
		}
		if id := container(cgroup, mounts); id != "" && len(id) != idShown {
			t.Fatalf("%q", id)
		}
	})
}
