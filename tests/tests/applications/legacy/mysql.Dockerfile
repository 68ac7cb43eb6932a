FROM stack-mysql
RUN echo 'mysql:x:101:101::/var/lib/mysql:/bin/false' >> /etc/passwd && echo 'mysql:x:101:' >> /etc/group
RUN chmod 1777 /tmp && mkdir -p /run/mysqld /var/lib/mysql && chown mysql:mysql /run/mysqld /var/lib/mysql
COPY --chmod=755 <<'EOF' /entrypoint
#!/bin/sh
set -e
data=/var/lib/mysql
if [ ! -d $data/mysql ]; then
    mariadb-install-db --user=mysql --datadir=$data --skip-test-db --skip-name-resolve --force > /dev/null
    cat > /tmp/first.sql <<SQL
ALTER USER root@localhost IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
CREATE USER root@'%' IDENTIFIED BY '$MYSQL_ROOT_PASSWORD';
GRANT ALL ON *.* TO root@'%' WITH GRANT OPTION;
SQL
    chown mysql /tmp/first.sql
    set -- --init-file=/tmp/first.sql
fi
exec mariadbd --user=mysql --datadir=$data --socket=/run/mysqld/mysqld.sock "$@"
EOF
EXPOSE 3306
VOLUME /var/lib/mysql
ENTRYPOINT ["/entrypoint"]
