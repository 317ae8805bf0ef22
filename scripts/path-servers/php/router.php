<?php
// A guarded and an open place by the path of REQUEST_URI, decoded, as front controllers read it.
$path = rawurldecode((string) parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH));
foreach (['admin', 'public'] as $name) {
    if ($path === "/$name" || str_starts_with($path, "/$name/")) {
        echo "served: $name\n";
        return true;
    }
}
http_response_code(404);
echo "not found\n";
return true;
