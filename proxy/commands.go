package proxy

// treatment is the verdict on a command: what the proxy does with it. The rule behind the table: known to leave no
// state on the connection, share; known to leave some, keep it here or pin; unknown, pin.
type treatment uint8

const (
	// unknown commands get a pin, which is kept for the client's life unless the upstream does not know the command
	// either. It is the treatment of whatever the table does not have.
	unknown treatment = iota
	// read commands change nothing: they share the lane, and may be sent again if it breaks.
	read
	// share commands share the lane.
	share
	// script commands share the lane, with a barrier behind them: with them, the upstream can be made to answer twice.
	script
	// block commands may wait for others: a pin until the reply. In a transaction they do not wait.
	block
	// blockOption commands do so if they have the option BLOCK, and otherwise share the lane.
	blockOption
	// waitAcks commands wait for what this connection wrote to reach replicas or the disk.
	waitAcks
	// flush commands block the connection on Redis 7.4 and later, but for their option ASYNC: until it is done, whatever
	// others do.
	flush
	// own commands leave no state, but take long, or act on connections: a pin until the reply.
	own
	// control commands interrupt others, so they must not queue behind them: they go on the control connection.
	control
	// clientPause commands do so too, and have this proxy hold its clients back, or let them go.
	clientPause
	// once commands get a pin that is closed after the reply.
	once
	// stick commands leave state that the proxy does not follow: a pin for the client's life.
	stick
	// relay commands turn the connection into something else: a pin for life, and whatever comes is passed on.
	relay
	// kill words make Redis drop the connection at once; the proxy drops the client's (Redis's defence against
	// cross-protocol scripting, server.c: securityWarningCommand).
	kill

	// reload commands are own commands after which the upstream may know other commands than before.
	reload
	// refuse commands are not sent: the operator does not want them. No command has this treatment by itself.
	refuse

	// The rest have functions of their own.
	multi
	exec
	discard
	watch
	unwatch
	subscribe
	selectDB
	hello
	auth
	reset
	quit
	noTouch
	readOnly
	clientID
	clientInfo
	clientSetName
	clientGetName
	clientSetInfo
	clientNoEvict
	clientReply
	clientMaint
	tracking
	clientList
	clientKill
	clientUnblock
	clientRedirect
	pubsubNumSub
	info
	configGet
	configSet
	configResetStat
	console // has no row of its own: see installConsole
)

// Nothing but data follows: what the commands are. How the table is made of it stands in table.go, what the upstream
// adds in learn.go, what the operator forbids in policy.go.

// commandList is the table's source: the commands of each treatment, for Redis up to 8.10 and Valkey up to 9.1. A
// subcommand is written with a bar; "*" stands for those that are not named, which are unknown otherwise.
var commandList = map[treatment]string{
	read: `
		BITCOUNT BITFIELD_RO BITPOS GETBIT
		COMMAND COMMAND|* DBSIZE ECHO LASTSAVE LOLWUT MEMORY|DOCTOR MEMORY|HELP MEMORY|MALLOC-STATS MEMORY|STATS
		MEMORY|USAGE PING ROLE TIME
		DUMP EXISTS EXPIRETIME KEYS OBJECT OBJECT|* PEXPIRETIME PTTL RANDOMKEY SCAN SORT_RO TOUCH TTL TYPE
		GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH
		HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS
		LINDEX LLEN LPOS LRANGE PFCOUNT
		SCARD SDIFF SDIFFCARD SINTER SINTERCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER SSCAN SUNION SUNIONCARD
		DIGEST GET GETRANGE LCS MGET STRLEN SUBSTR
		XINFO XINFO|* XLEN XPENDING XRANGE XREVRANGE
		ZCARD ZCOUNT ZDIFF ZINTER ZINTERCARD ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK
		ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE ZUNION
		ARCOUNT ARGET ARGETRANGE ARGREP ARINFO ARLASTITEMS ARLEN ARMGET ARSCAN
		ACL|CAT ACL|HELP ACL|WHOAMI PUBSUB PUBSUB|* SCRIPT|EXISTS SCRIPT|HELP SCRIPT|SHOW FUNCTION|DUMP FUNCTION|HELP
		CLIENT|HELP CONFIG|HELP MODULE|LIST MODULE|HELP SLOWLOG|GET SLOWLOG|LEN SLOWLOG|HELP
		COMMANDLOG|GET COMMANDLOG|LEN COMMANDLOG|HELP LATENCY|DOCTOR LATENCY|GRAPH LATENCY|HELP LATENCY|HISTOGRAM
		LATENCY|HISTORY LATENCY|LATEST
		CLUSTER|COUNT-FAILURE-REPORTS CLUSTER|COUNTKEYSINSLOT CLUSTER|GETKEYSINSLOT CLUSTER|HELP CLUSTER|INFO
		CLUSTER|KEYSLOT CLUSTER|LINKS CLUSTER|MYID CLUSTER|MYSHARDID CLUSTER|NODES CLUSTER|REPLICAS CLUSTER|SHARDS
		CLUSTER|SLAVES CLUSTER|SLOT-STATS CLUSTER|SLOTS CLUSTERSCAN`,
	share: `
		BITFIELD BITOP SETBIT
		COPY DEL EXPIRE EXPIREAT MOVE PERSIST PEXPIRE PEXPIREAT RENAME RENAMENX RESTORE SORT UNLINK
		GEOADD GEORADIUS GEORADIUSBYMEMBER GEOSEARCHSTORE
		HDEL HEXPIRE HEXPIREAT HGETDEL HGETEX HINCRBY HINCRBYFLOAT HMSET HPERSIST HPEXPIRE HPEXPIREAT HSET HSETEX HSETNX
		PFADD PFMERGE
		LINSERT LMOVE LMOVEM LMPOP LPOP LPUSH LPUSHX LREM LSET LTRIM RPOP RPOPLPUSH RPUSH RPUSHX
		SADD SDIFFSTORE SINTERSTORE SMOVE SPOP SREM SUNIONSTORE
		APPEND DECR DECRBY DELEX DELIFEQ GETDEL GETEX GETSET INCR INCRBY INCRBYFLOAT INCREX MSET MSETEX MSETNX PSETEX SET
		SETEX SETNX SETRANGE
		XACK XACKDEL XADD XAUTOCLAIM XCFGSET XCLAIM XDEL XDELEX XGROUP XGROUP|* XIDMPRECORD XNACK XSETID XTRIM
		ZADD ZDIFFSTORE ZINCRBY ZINTERSTORE ZMPOP ZPOPMAX ZPOPMIN ZRANGESTORE ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK
		ZREMRANGEBYSCORE ZUNIONSTORE
		ARDEL ARDELRANGE ARINSERT ARMSET ARNEXT AROP ARRING ARSEEK ARSET
		PUBLISH SPUBLISH ACL|GENPASS MEMORY|PURGE SLOWLOG|RESET COMMANDLOG|RESET
		ACL CLIENT CLUSTER COMMANDLOG CONFIG FUNCTION LATENCY MEMORY MODULE SCRIPT SLOWLOG`,
	script:      `EVAL EVAL_RO EVALSHA EVALSHA_RO FCALL FCALL_RO SCRIPT|LOAD`,
	block:       `BLPOP BRPOP BZPOPMIN BZPOPMAX BRPOPLPUSH BLMOVE BLMOVEM BLMPOP BZMPOP`,
	waitAcks:    `WAIT WAITAOF`,
	blockOption: `XREAD XREADGROUP TS.READ`,
	flush:       `FLUSHALL FLUSHDB SFLUSH`,
	own: `
		ACL|DELUSER ACL|DRYRUN ACL|GETUSER ACL|LIST ACL|LOAD ACL|LOG ACL|SAVE ACL|SETUSER ACL|USERS
		BGREWRITEAOF BGSAVE CONFIG|REWRITE
		CLUSTER|* FAILOVER FUNCTION|DELETE FUNCTION|FLUSH LATENCY|RESET MIGRATE
		PFDEBUG PFSELFTEST REPLICAOF RESTORE-ASKING SAVE SCRIPT|FLUSH SLAVEOF SWAPDB TRIMSLOTS HOTKEYS HOTKEYS|*
		BACKUP BACKUP|*`,
	reload:         `MODULE|LOAD MODULE|LOADEX MODULE|UNLOAD`,
	control:        `SCRIPT|KILL FUNCTION|KILL FUNCTION|STATS`,
	clientPause:    `CLIENT|PAUSE CLIENT|UNPAUSE`,
	once:           `DEBUG SHUTDOWN FUNCTION|LIST FUNCTION|LOAD FUNCTION|RESTORE`,
	stick:          `ASKING CLIENT|CACHING CLIENT|CAPA CLIENT|IMPORT-SOURCE HIMPORT HIMPORT|*`,
	relay:          `MONITOR SYNC PSYNC REPLCONF SCRIPT|DEBUG`,
	kill:           `POST HOST:`,
	multi:          `MULTI`,
	exec:           `EXEC`,
	discard:        `DISCARD`,
	watch:          `WATCH`,
	unwatch:        `UNWATCH`,
	subscribe:      `SUBSCRIBE PSUBSCRIBE SSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE SUNSUBSCRIBE`,
	selectDB:       `SELECT`,
	hello:          `HELLO`,
	auth:           `AUTH`,
	reset:          `RESET`,
	quit:           `QUIT`,
	noTouch:        `CLIENT|NO-TOUCH`,
	readOnly:       `READONLY READWRITE`,
	clientID:       `CLIENT|ID`,
	clientInfo:     `CLIENT|INFO`,
	clientSetName:  `CLIENT|SETNAME`,
	clientGetName:  `CLIENT|GETNAME`,
	clientSetInfo:  `CLIENT|SETINFO`,
	clientNoEvict:  `CLIENT|NO-EVICT`,
	clientReply:    `CLIENT|REPLY`,
	clientMaint:    `CLIENT|MAINT_NOTIFICATIONS`,
	clientRedirect: `CLIENT|GETREDIR CLIENT|TRACKINGINFO`,
	pubsubNumSub:   `PUBSUB|NUMSUB PUBSUB|SHARDNUMSUB`,
	tracking:       `CLIENT|TRACKING`,

	clientList:      `CLIENT|LIST`,
	clientKill:      `CLIENT|KILL`,
	clientUnblock:   `CLIENT|UNBLOCK`,
	info:            `INFO`,
	configGet:       `CONFIG|GET`,
	configSet:       `CONFIG|SET`,
	configResetStat: `CONFIG|RESETSTAT`,
}

// modulePrefixes are the command families of the modules that come with Redis 8 and of their Valkey counterparts.
// Their commands share the lane, with a barrier, but for those that commandList has and the debugging ones.
var modulePrefixes = []string{"BF.", "CF.", "CMS.", "TOPK.", "TDIGEST.", "JSON.", "TS.", "FT."}

// mayReplicate are the commands that write nothing themselves and may still send something to replicas. Since 7.0
// Redis does not say which they are.
const mayReplicate = `EVAL EVALSHA FCALL PFCOUNT PUBLISH SPUBLISH`

// vectorCommands are the vector set's, which have no prefix with a dot.
const vectorCommands = `VADD VCARD VDIM VEMB VGETATTR VINFO VISMEMBER VLINKS VRANDMEMBER VRANGE VREM VSETATTR VSIM`

// maxName is the longest name in the table; a longer one is of no command that it knows.
const maxName = 32

// upper appends name in upper case to buf, or nothing if it is longer than maxName.
func upper(buf, name []byte) []byte {
	if len(name) > maxName {
		return buf
	}
	for _, c := range name {
		if c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		buf = append(buf, c)
	}
	return buf
}

// isWord reports whether an argument is the given word, which is in upper case.
func isWord(arg []byte, word string) bool {
	var buf [maxName]byte
	return len(arg) == len(word) && string(upper(buf[:0], arg)) == word
}

// keyList has where the keys of commands are that only read, for as long as the upstream has not said.
var keyList = map[keySpec]string{
	{known: true}: `COMMAND DBSIZE ECHO LASTSAVE LOLWUT PING RANDOMKEY ROLE SCAN TIME`,
	{known: true, first: 1, last: 1, step: 1}: `
		BITCOUNT BITFIELD_RO BITPOS GETBIT DUMP EXPIRETIME PEXPIRETIME PTTL TTL TYPE
		GEODIST GEOHASH GEOPOS GEORADIUSBYMEMBER_RO GEORADIUS_RO GEOSEARCH
		HEXISTS HEXPIRETIME HGET HGETALL HKEYS HLEN HMGET HPEXPIRETIME HPTTL HRANDFIELD HSCAN HSTRLEN HTTL HVALS
		LINDEX LLEN LPOS LRANGE SCARD SISMEMBER SMEMBERS SMISMEMBER SRANDMEMBER SSCAN
		DIGEST GET GETRANGE STRLEN SUBSTR XLEN XPENDING XRANGE XREVRANGE
		ZCARD ZCOUNT ZLEXCOUNT ZMSCORE ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREVRANGE ZREVRANGEBYLEX
		ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE`,
	{known: true, first: 1, last: 2, step: 1}:  `LCS`,
	{known: true, first: 1, last: -1, step: 1}: `EXISTS MGET PFCOUNT SDIFF SINTER SUNION TOUCH`,
}
