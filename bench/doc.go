// Command bench measures the proxy beside what it competes with: Redis without a proxy, and other proxies
// (see README.md for how to run it and how to read it).
//
//	go run ./bench                      the report: every scenario that is not long, then the verdict on the goals
//	go run ./bench idle                 one scenario
//	go run ./bench --out bench/out      the same as the first, and a page and data of it
//	go run ./bench --target host:port   load an address, within bounds; --dry-run says how
//
// Words, spelled the same in code, tables and README:
//
//	scenario    one kind of measurement; a row of the table scenarios
//	load        what clients do; a row of a scenario's loads
//	driver      what does it: the raw client, go-redis and others
//	contender   a way from the client to Redis: direct, redbouncer or a peer; a row of the table contenders
//	rig         one Redis and some contenders in front of it, running
//	target      a contender that runs in a rig, or an address that was given
//	round       one measurement of every target, one after the other
//	sample      what one measurement of one target gave
//	goal        what the project promises of a figure; a row of the table goals
//
// Without --target, everything is started here, on free loopback ports, and ended here. The machine is never quiet, so
// targets are measured in turn, round after round, and compared within a round: a disturbance that lasts longer than a
// round hits every target alike and cancels out of the ratios.
package main
