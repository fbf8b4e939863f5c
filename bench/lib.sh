# What the benchmarks share: a temporary directory, two sites with certificates, nginx, medians.
# Everything runs on loopback, is bounded in time, and is ended by pid.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
nearshare=$target/release/nearshare
pids=()
top=$(mktemp -d "${TMPDIR:-/tmp}/nearshare-bench.XXXXXX")
chmod 755 "$top"
# what a bench that starts afresh for each round may set to a directory of its own below `top`
work=$top

finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  rm -rf "$top"
}
trap finish EXIT

say() { printf '%s\n' "$*"; }
median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }
# limit WHAT VALUE at-least|at-most LIMIT: a bench ends with `exit $over`
over=0
limit() {
  awk -v v="$2" -v l="$4" -v least="$3" 'BEGIN { exit !(least == "at-least" ? v >= l : v <= l) }' && return 0
  say "beyond the limit: $1 is $2, and should be $3 $4"
  over=1
}
# the resident memory of a process in KiB
rss() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

build() { (cd "$here" && cargo build --release --quiet); }

# nginx NAME CPU LISTEN BODY: one worker with BODY in its server block; sets NAME_pid
start_nginx() {
  local name=$1 cpu=$2 listen=$3 body=$4 dir=$work/nginx-$1
  mkdir -p "$dir"
  cat > "$dir/conf" <<CONF
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
worker_processes 1; daemon off; pid $dir/pid; error_log $dir/error.log; user root;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_timeout 75; keepalive_requests 1000000000;
  client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/f; uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  client_max_body_size 0; default_type application/octet-stream;
  upstream origin { server 127.0.0.1:${ORIGIN_PORT:-1}; keepalive 64; keepalive_requests 1000000000; }
  server { listen $listen backlog=4096; $body }
}
CONF
  taskset -c "$cpu" nginx -c "$dir/conf" & pids+=($!)
}

# two_sites SERVER: hq (embedded, primary) and lyon (a copy) with SERVER; writes the map and certificates
two_sites() {
  local server=$1 site
  hq_http=$(free_port); lyon_http=$(free_port)
  local hq_link lyon_link
  hq_link=$(free_port); lyon_link=$(free_port)
  mkdir -p "$work/hq" "$work/lyon"
  "$nearshare" cert init --dir "$work/ca" > /dev/null
  for site in hq lyon; do "$nearshare" cert issue "$site" --dir "$work/ca" --out "$work/cert-$site" > /dev/null; done
  cat > "$work/map.toml" <<MAP
serial = 1
[site.hq]
link = "127.0.0.1:$hq_link"
http = { server = "embedded", listen = "127.0.0.1:$hq_http" }
ca = "$work/cert-hq/ca.pem"
certificate = "$work/cert-hq/site.pem"
key = "$work/cert-hq/site.key"
secret = "$work/cert-hq/secret"
state = "$work/state-hq"
[site.lyon]
link = "127.0.0.1:$lyon_link"
http = { server = "$server", listen = "127.0.0.1:$lyon_http" }
ca = "$work/cert-lyon/ca.pem"
certificate = "$work/cert-lyon/site.pem"
key = "$work/cert-lyon/site.key"
secret = "$work/cert-lyon/secret"
state = "$work/state-lyon"
[share.files]
http = "/files"
hq = { role = "local", path = "$work/hq" }
lyon = { role = "broadcast", path = "$work/lyon" }
MAP
}

# start_site NAME CPUS [MORE ARGUMENTS]: sets $site_pid
start_site() {
  taskset -c "$2" "$nearshare" run --map "$work/map.toml" --site "$1" "${@:3}" 2> "$work/log-$1" &
  site_pid=$!
  pids+=("$site_pid")
}

# state of the share at a site, from its status
state_of() {
  "$nearshare" status --socket "$work/state-$1/control.sock" --json 2>/dev/null |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["shares"][0]["state"])' 2>/dev/null || true
}
wait_state() {
  local i
  for i in $(seq 1 3000); do
    [ "$(state_of "$1")" = "$2" ] && return 0
    kill -0 "$site_pid" || break
    sleep 0.05
  done
  say "$1 never came to be $2"; tail -5 "$work/log-$1"; return 1
}
