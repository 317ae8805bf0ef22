module path-server

go 1.19
