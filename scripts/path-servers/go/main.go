// A guarded and an open place, by Go's ServeMux, by its file server, and by a handler that cleans the path itself:
// path-server MUX_PORT FILES_PORT CLEAN_PORT FOLDER
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"path"
	"strings"
)

func serve(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "served: %s\n", name) }
}

func below(text, prefix string) bool { return text == prefix || strings.HasPrefix(text, prefix+"/") }

func clean(w http.ResponseWriter, r *http.Request) {
	switch cleaned := path.Clean("/" + r.URL.Path); {
	case below(cleaned, "/admin"):
		serve("admin")(w, r)
	case below(cleaned, "/public"):
		serve("public")(w, r)
	default:
		http.NotFound(w, r)
	}
}

func main() {
	mux := http.NewServeMux()
	for _, name := range []string{"admin", "public"} {
		mux.HandleFunc("/"+name, serve(name))
		mux.HandleFunc("/"+name+"/", serve(name))
	}
	listen := func(port string, handler http.Handler) {
		log.Fatal(http.ListenAndServe("127.0.0.1:"+port, handler))
	}
	go listen(os.Args[1], mux)
	go listen(os.Args[2], http.FileServer(http.Dir(os.Args[4])))
	listen(os.Args[3], http.HandlerFunc(clean))
}
