package admin_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// A proxy with a console, which a client library asks for the settings.
func Example() {
	upstream := miniredis.NewMiniRedis()
	if err := upstream.Start(); err != nil {
		panic(err)
	}
	defer upstream.Close()
	up, err := multiplex.ParseUpstream("redis://" + upstream.Addr())
	if err != nil {
		panic(err)
	}
	log := slog.New(slog.DiscardHandler)

	operators, err := admin.New(admin.Config{Listen: "127.0.0.1:0", HTTPListen: admin.None, Log: log})
	if err != nil {
		panic(err)
	}
	defer operators.Stop()
	server, err := proxy.New(proxy.Config{
		Listen: []string{"127.0.0.1:0"}, Upstream: up, MaxClients: 100, Console: operators.Client, Log: log,
	})
	if err != nil {
		panic(err)
	}
	operators.Attach(admin.Backends{Proxy: server})
	operators.Start()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()

	client := redis.NewClient(&redis.Options{Addr: operators.Addr().String()})
	fmt.Println(client.Do(ctx, "PROXY", "SHOW", "CONFIG", "maxclients", "FORMAT", "JSON").Text())
	_ = client.Close()

	stop()
	fmt.Println(<-done)
	// Output:
	// [{"name":"maxclients","value":"100","from":"","live":true}] <nil>
	// <nil>
}
