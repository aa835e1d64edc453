module github.com/redbouncer/redbouncer

go 1.26.0
